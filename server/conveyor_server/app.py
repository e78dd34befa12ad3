"""A server of one process: what answers, HTTP beside it, and the repository that it follows."""

import asyncio
import logging

from conveyor_server import __version__
from conveyor_server.engine.cpu_budget import cpu_budget
from conveyor_server.exposure import allow_connections, exposure_warning
from conveyor_server.http_server import HttpServer
from conveyor_server.inference_server import InferenceServer
from conveyor_server.life import Life, say_whether_ready
from conveyor_server.model_source import ModelSource
from conveyor_server.security import Security
from conveyor_server.settings import Settings

log = logging.getLogger(__name__)


class App(Life):
    """One server process. Create it in a running event loop.

    Raises:
        StartError: the settings cannot be met on this machine; the text says what to do.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.lame_duck_seconds)
        self._settings = settings
        security = self._security = Security(settings)
        self._source = source = ModelSource(settings)
        self._server = InferenceServer(settings, source.folder, source.boundary, security)
        self._http = HttpServer(
            settings.host, settings.http_port, metrics=self._page, ready=self._is_ready, security=security
        )

    async def start(self) -> None:
        """Both ports answer from here on; nothing is ready yet."""
        settings = self._settings
        for warning in (exposure_warning(settings), allow_connections(settings.max_connections)):
            if warning:
                log.warning("%s", warning)
        await self._http.start()
        await self._server.transport.start()
        log.info(
            "Conveyor %s, repository %s, %d CPU(s): gRPC on %s:%d, HTTP on %s:%d",
            __version__,
            settings.repository,
            cpu_budget(),
            settings.host,
            self._server.transport.port,
            settings.host,
            self._http.port,
        )

    async def serve(self) -> None:
        """Loads, tunes and warms the models; then the server is ready, and follows the files that it was given."""
        await asyncio.gather(self._security.watch(), self._serve_models())

    async def _serve_models(self) -> None:
        await self._source.start()
        await self._server.load()
        say_whether_ready(self._server.served)
        await self._source.follow(self._server.look)

    async def reload(self) -> None:
        """Looks for what is new in the repository, as `poll` does."""
        await self._source.fetch()
        await self._server.look()

    def say_leaving(self) -> None:
        """Says that it is not ready, and serves on."""
        self._server.service.leaving = True

    async def drain(self) -> None:
        """Takes no new work, and finishes what was accepted."""
        await self._server.drain()

    async def stop(self) -> None:
        """Closes the ports and frees the runners."""
        await self._server.stop()
        await self._http.stop()

    def _is_ready(self) -> bool:
        return self._server.service.ready

    async def _page(self) -> bytes:
        return self._server.metrics_page()
