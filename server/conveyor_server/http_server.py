"""The HTTP port: metrics for Prometheus, liveness and readiness for whoever probes over HTTP."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from conveyor_server.core.errors import NotPermitted, StartError, Unauthenticated
from conveyor_server.security import Security
from conveyor_server.wire.tokens import Scope

_Handler = Callable[[web.Request], Awaitable[web.Response]]


class HttpServer:
    """Serves `/metrics`, `/healthz` and `/readyz`.

    The last two are open to all: probes carry neither a token nor a certificate of their own, and what they get to know
    is a yes or a no.

    Args:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        metrics: makes the page for Prometheus.
        ready: whether requests should come here.
        security: who is let in.
    """

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Callable[[], Awaitable[bytes]],
        ready: Callable[[], bool],
        security: Security,
    ) -> None:
        self._host = host
        self.port = port
        self._metrics = metrics
        self._ready = ready
        self._certificates = security.certificates
        self._access = security.access
        app = web.Application()
        app.router.add_get("/metrics", self._guarded(Scope.READ, self._get_metrics))
        app.router.add_get("/healthz", self._get_health)
        app.router.add_get("/readyz", self._get_readiness)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            StartError: the address is taken or not ours.
        """
        await self._runner.setup()
        context = self._certificates.http_context if self._certificates else None
        try:
            await web.TCPSite(self._runner, self._host, self.port, ssl_context=context).start()
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

    def _guarded(self, scope: Scope, handler: _Handler) -> _Handler:
        """The handler for those who may: with a certificate where clients need one, and a token where there are any."""

        async def guarded(request: web.Request) -> web.Response:
            if self._certificates and self._certificates.wants_clients and not request.get_extra_info("peercert"):
                return web.Response(status=403, text="A client certificate is needed here.\n")
            if self._access:
                try:
                    self._access.check(scope, request.headers.get("Authorization"))
                except Unauthenticated as error:
                    return web.Response(status=401, text=f"{error}\n", headers={"WWW-Authenticate": "Bearer"})
                except NotPermitted as error:
                    return web.Response(status=403, text=f"{error}\n")
            return await handler(request)

        return guarded

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=await self._metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _get_health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_readiness(self, request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if self._ready() else web.Response(status=503, text="not ready\n")
