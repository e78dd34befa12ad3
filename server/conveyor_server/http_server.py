"""The HTTP port: metrics for Prometheus, liveness and readiness for whoever probes over HTTP."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from conveyor_server.core.errors import StartError


class HttpServer:
    """Serves `/metrics`, `/healthz` and `/readyz`.

    Args:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        metrics: the page for Prometheus.
        ready: whether requests should come here.
    """

    def __init__(self, host: str, port: int, metrics: Callable[[], bytes], ready: Callable[[], bool]) -> None:
        self._host = host
        self.port = port
        self._metrics = metrics
        self._ready = ready
        app = web.Application()
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/healthz", self._get_health)
        app.router.add_get("/readyz", self._get_readiness)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            StartError: the address is taken or not ours.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self.port).start()
        except OSError as error:
            await self.stop()
            raise StartError(
                f"HTTP cannot listen on {self._host}:{self.port}: {error.strerror}. Choose another with --http-port or "
                "--host."
            ) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stops listening and closes the connections."""
        await self._runner.cleanup()

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _get_health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_readiness(self, request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if self._ready() else web.Response(status=503, text="not ready\n")
