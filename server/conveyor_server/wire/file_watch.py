"""What was read from files, and is read anew when they change. Knows neither what is in them nor who uses it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from conveyor_server.engine.fingerprint import Fingerprint, fingerprint

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often files are looked at: a `stat` of each."""

_T = TypeVar("_T")
_Seen = tuple[Fingerprint, ...]


class WatchedFiles(Generic[_T]):
    """Files that belong together, and what was made of them last.

    Links are followed at every look, so that files behind a link that is swapped (secrets of Kubernetes) are seen to
    change. What cannot be used replaces nothing. Several files are never swapped at one stroke, so it is complained of
    only when a second look finds it as it was.

    Args:
        name: what the files are, for the log.
        paths: the files.
        read: makes the value of them.

    Raises:
        StartError: they cannot be used; `read` says why.
    """

    def __init__(self, name: str, paths: Sequence[Path], read: Callable[[], _T]) -> None:
        self._name = name
        self._paths = paths
        self._read = read
        self._seen = self._look_at()
        self._refused: _Seen | None = None
        self._said = False
        self.value = read()
        self.stale = False
        """Whether the files that are there now cannot be used, and the value is still that of earlier ones."""

    def look(self) -> bool:
        """Reads the files if they have changed; returns whether there is a new value. Blocks for as long as that."""
        seen = self._look_at()
        if seen == self._seen:
            self._refused, self.stale = None, False
            return False
        try:
            value = self._read()
        except Exception as error:  # whatever it is, the earlier value is better than none, and the watch goes on
            if seen == self._refused and not self._said:
                self._said = self.stale = True
                log.error("%s: what was read before stays in use. %s", self._name, error)
            elif seen != self._refused:
                self._refused, self._said = seen, False
            return False
        self._seen, self._refused, self.stale = seen, None, False
        self.value = value
        log.info("%s: read anew.", self._name)
        return True

    async def watch(self, changed: Callable[[], None] = lambda: None) -> None:
        """Looks again and again, off the event loop, and calls `changed` in its thread at each new value."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if await asyncio.to_thread(self.look):
                changed()

    def _look_at(self) -> _Seen:
        return tuple(fingerprint(path) for path in self._paths)
