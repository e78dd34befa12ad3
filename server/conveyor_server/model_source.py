"""Where the models come from: a folder, or the local copy of a remote repository; and when to look for new ones."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from conveyor_server.core.errors import RepositoryUnreachable
from conveyor_server.engine.remote_repository import RemoteRepository, is_remote
from conveyor_server.settings import ModelControl, Settings

log = logging.getLogger(__name__)


class ModelSource:
    """The source that the settings name.

    Args:
        settings: where and when.

    Raises:
        StartError: a remote repository cannot be used in this way.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._remote: RemoteRepository | None = None
        if is_remote(settings.repository):
            self._remote = RemoteRepository(settings.repository, settings.repository_cache.expanduser())
        self.folder = self._remote.folder if self._remote else Path(settings.repository)
        """A folder of models."""
        self.boundary = self._remote.boundary if self._remote else None
        """The folder that no file may be outside of, where that is not `folder`; only a copy has one."""

    async def start(self) -> None:
        """Has something in the folder, if it is a copy.

        Raises:
            RepositoryUnreachable: there is no earlier copy, and none can be made.
        """
        if self._remote:
            await self._remote.start()

    async def fetch(self) -> None:
        """Brings a copy up to date; what is there stays when that fails."""
        try:
            if self._remote:
                await self._remote.sync()
        except RepositoryUnreachable as error:
            log.error("%s", error)

    async def follow(self, look: Callable[[], Awaitable[None]]) -> None:
        """Calls `look` again and again, as the settings say, each time with a fresh copy; for ever, or not at all."""
        control = self._settings.model_control
        while control is ModelControl.POLL or (self._remote and control is ModelControl.EXPLICIT):
            await asyncio.sleep(self._settings.poll_seconds)
            await self.fetch()
            if control is ModelControl.POLL:
                await look()
