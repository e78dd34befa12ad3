"""gRPC by grpcio's asyncio server. With `grpc_security`, the only module of the server that imports grpc.

Counts the requests in progress itself: grpcio's own graceful stop does not wait for all of them, and would wait for
streams that have nothing to say.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from types import MappingProxyType

import grpc
import grpc.aio

from conveyor_server.core.errors import Draining, RequestError, StartError
from conveyor_server.wire.access import Access
from conveyor_server.wire.certificates import Certificates
from conveyor_server.wire.connection_limits import ConnectionLimits
from conveyor_server.wire.grpc_calls import Context, GrpcCall, GrpcContext, Outcome
from conveyor_server.wire.grpc_security import (
    CODES,
    Routes,
    connection_options,
    credentials,
    keep_headers_out_of_the_log,
)
from conveyor_server.wire.listening import make_way
from conveyor_server.wire.rpc import Immediate, Messages, Rpc, ServerStream, Service, TwoWayStream, Unary
from conveyor_server.wire.status import STATUS_OF
from conveyor_server.wire.traffic import SILENCE_SECONDS, Traffic

log = logging.getLogger(__name__)


class GrpcTransport:
    """The gRPC server of one service.

    Args:
        service: the handlers.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        limits: what connections may take.
        max_waiting_calls: how many calls may wait for this process to look at them. More than that are reset by
            grpc's own threads: a call costs nearly as much to refuse here as to answer, so that a process that looks
            at each would, at three times its rate, answer none in time.
        unix_socket: path to listen at as well, without TLS; empty for none.
        certificates: for TLS; None for none.
        access: who may call what; None lets all in.
        shares_port: whether other processes may listen on the same port; the system gives each its connections.

    Raises:
        StartError: the address is taken or not ours.
    """

    def __init__(
        self,
        service: Service,
        host: str,
        port: int,
        limits: ConnectionLimits,
        max_waiting_calls: int = 1000,
        *,
        unix_socket: str = "",
        certificates: Certificates | None = None,
        access: Access | None = None,
        shares_port: bool = False,
    ) -> None:
        self._service = service
        self._host = f"[{host}]" if ":" in host else host
        self._unix_socket = unix_socket
        if unix_socket:
            make_way(unix_socket)
        self._certificates = certificates
        self._access = access
        keep_headers_out_of_the_log()
        self._options = [
            *connection_options(limits),
            ("grpc.server.max_pending_requests", max_waiting_calls),
            ("grpc.server.max_pending_requests_hard_limit", 2 * max_waiting_calls),
            # A second server on the same port is a mistake, and must be told so, unless it is meant.
            ("grpc.so_reuseport", int(shares_port)),
        ]
        self._traffic = Traffic()
        self._streams: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._watching: asyncio.Task[None] | None = None
        self._server, self.port = self._make_server(port)

    refused: Mapping[type[RequestError], int] = MappingProxyType({})
    """Nothing is known of calls that grpc's core turns away."""
    connections = None
    """Nor of connections."""
    endings: Mapping[str, int] = MappingProxyType({})

    @property
    def in_progress(self) -> int:
        """Requests that are not answered yet."""
        return self._traffic.in_progress

    def adopt(self, accepted: socket.socket, ended: Callable[[], None]) -> None:
        """Cannot be: grpcio serves what it accepts itself."""
        raise NotImplementedError("grpcio takes over no connections. This is a bug.")

    def send_away(self, count: int) -> None:
        """Nothing: grpcio knows no way to end a connection."""

    def leave(self) -> None:
        """Nothing: grpcio knows no way to send clients away and to serve them on."""

    async def start(self) -> None:
        """Begins to accept connections."""
        await self._server.start()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self, grace: float) -> None:
        """Waits until all is answered and no more comes, at most `grace` seconds, then closes streams and connections.

        The service refuses new requests by now, so clients and balancers turn away. Calls that still arrive in the
        moment of grpcio's own stop would be CANCELLED, which nobody retries (grpc issue 41785); hence the wait for
        silence. Open streams then end with a code that clients retry elsewhere.
        """
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._traffic.silence(), grace)
        if self._streams:
            for stream in self._streams:
                stream.cancel()
            await asyncio.sleep(SILENCE_SECONDS)  # in which grpcio writes their last words
        await self._server.stop(0)
        if self._watching is not None:
            await self._watching

    async def _watch(self) -> None:
        """Puts another server in the place of one that broke.

        One request whose path is not UTF-8 ends grpcio's server (1.85 and older) with all its calls.
        """
        while not self._stopping:
            try:
                await self._server.wait_for_termination()
            except Exception as error:
                log.error("grpcio's server broke, and is replaced: %r", error)
            while not self._stopping:
                try:
                    self._server, _ = self._make_server(self.port)
                except StartError:  # the old one has not let go of the port yet
                    await asyncio.sleep(SILENCE_SECONDS)
                else:
                    await self._server.start()
                    break

    def _make_server(self, port: int) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((self._routes(),))
        address = f"{self._host}:{port}"
        try:
            if self._unix_socket:
                server.add_insecure_port(f"unix:{self._unix_socket}")
            if self._certificates is None:
                return server, server.add_insecure_port(address)
            return server, server.add_secure_port(address, credentials(self._certificates))
        except RuntimeError as error:
            raise StartError(
                f"gRPC cannot listen on {address}: the port is taken or the address is not of this machine. Choose "
                "another with --grpc-port or --host."
            ) from error

    def _routes(self) -> Routes:
        rpcs = {f"/{name}/{method}": rpc for name, rpcs in self._service.rpcs.items() for method, rpc in rpcs.items()}
        return Routes({path: (self._handler(path, rpc), rpc.scope) for path, rpc in rpcs.items()}, self._access)

    def _handler(self, path: str, rpc: Rpc) -> "grpc.RpcMethodHandler[bytes, bytes]":
        match rpc:
            case Immediate():
                return grpc.unary_unary_rpc_method_handler(self._immediate(path.rpartition("/")[2], rpc))
            case Unary():
                return grpc.unary_unary_rpc_method_handler(self._unary(rpc))
            case ServerStream():
                return grpc.unary_stream_rpc_method_handler(self._server_stream(rpc))
            case TwoWayStream():
                return grpc.stream_stream_rpc_method_handler(self._two_way_stream(rpc))

    def _immediate(self, method: str, rpc: Immediate) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(data: bytes, context: Context) -> bytes:
            call = GrpcCall(context, self._access, method)
            rpc.handler(data, call)
            try:
                return await self._settle(call, call.outcome)
            except asyncio.CancelledError:
                call.cancelled()
                raise

        return handle

    def _unary(self, rpc: Unary) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def outcome(data: bytes) -> Outcome:
            result = await rpc.call(data)
            return result if isinstance(result, RequestError) else result.SerializeToString()

        async def handle(data: bytes, context: Context) -> bytes:
            return await self._settle(GrpcContext(context, self._access), outcome(data))

        return handle

    async def _settle(self, call: GrpcContext, outcome: Awaitable[Outcome]) -> bytes:
        """The response of a call, which counts as in progress until it is there or refused; a refusal ends the call."""
        self._traffic.begin()
        try:
            result = await outcome
            await call.say_metadata()
            if isinstance(result, RequestError):
                # A status that comes without a message: balancers and clients retry no other form.
                await call.grpc.abort(CODES[STATUS_OF[type(result)]], str(result))
        finally:
            self._traffic.end()
        return result

    def _server_stream(self, rpc: ServerStream) -> Callable[[bytes, Context], Awaitable[None]]:
        async def handle(data: bytes, context: Context) -> None:
            await self._stream(context, _write(rpc.open(data), GrpcContext(context, self._access)))

        return handle

    def _two_way_stream(self, rpc: TwoWayStream) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
        async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
            unanswered = 0

            async def counted() -> AsyncGenerator[bytes, None]:
                nonlocal unanswered
                async for request in requests:
                    unanswered += 1
                    self._traffic.begin()
                    yield request

            def answered() -> None:
                nonlocal unanswered
                unanswered -= 1
                self._traffic.end()

            call = GrpcContext(context, self._access)
            try:
                await self._stream(context, _write(rpc.open(counted(), call), call, answered))
            finally:
                self._traffic.end(unanswered)

        return handle

    async def _stream(self, context: Context, writing: Coroutine[None, None, None]) -> None:
        """Carries one stream to its end: that of its handler, of the client, or of the server."""
        stream = asyncio.create_task(writing)
        self._streams.add(stream)
        try:
            await stream
        except RequestError as error:
            _set_status(context, error)
        except asyncio.CancelledError:
            if _cancelled_from_outside():
                raise
            _set_status(context, Draining("The server is shutting down."))
        finally:
            self._streams.discard(stream)


async def _write(messages: Messages, call: GrpcContext, written: Callable[[], None] = lambda: None) -> None:
    async with contextlib.aclosing(messages):
        async for message in messages:
            await call.say_metadata()
            await call.grpc.write(message.SerializeToString())
            written()
    await call.say_metadata()


def _cancelled_from_outside() -> bool:
    """Whether it is this task that was cancelled, by grpcio because the client has gone, and not one it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _set_status(context: Context, error: RequestError) -> None:
    """Ends a stream, whose messages have been sent, with the error's code."""
    context.set_code(CODES[STATUS_OF[type(error)]])
    context.set_details(str(error))
