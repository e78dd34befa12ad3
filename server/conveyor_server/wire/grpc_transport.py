"""gRPC by grpcio's asyncio server. With `grpc_security`, the only module of the server that imports grpc.

Counts the requests in progress itself: grpcio's own graceful stop does not wait for all of them, and would wait for
streams that have nothing to say.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from math import inf

import grpc
import grpc.aio
from google.protobuf.message import Message

from conveyor_server.core.errors import Draining, RequestError, StartError
from conveyor_server.wire.access import Access
from conveyor_server.wire.certificates import Certificates
from conveyor_server.wire.connection_limits import ConnectionLimits
from conveyor_server.wire.grpc_security import (
    CODES,
    Routes,
    connection_options,
    credentials,
    keep_headers_out_of_the_log,
)
from conveyor_server.wire.rpc import Immediate, Messages, Rpc, ServerStream, TwoWayStream, Unary
from conveyor_server.wire.service import InferenceService
from conveyor_server.wire.status import STATUS_OF

log = logging.getLogger(__name__)

_SILENCE_SECONDS = 0.1
_Context = grpc.aio.ServicerContext[bytes, Message]
_Outcome = Message | RequestError


class GrpcCall:
    """A call of grpcio as the service sees it: a slot that resolves a future."""

    method = "ModelInfer"

    def __init__(self, context: _Context, access: Access | None = None) -> None:
        self._context = context
        self._access = access
        self.deadline = _deadline(context)
        self.request_id = ""
        self.outcome: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        self._on_cancel: Callable[[], None] | None = None

    @property
    def metadata(self) -> Mapping[str, str]:
        """The call's headers that are text."""
        return {name: value for name, value in self._context.invocation_metadata() or () if isinstance(value, str)}

    @property
    def caller(self) -> str:
        """The name of the token that it came with."""
        return self._access.name_of(self.metadata.get("authorization")) if self._access else ""

    def answer(self, response: Message) -> None:
        """Sends the response."""
        if not self.outcome.done():
            self.outcome.set_result(response)

    def fail(self, error: RequestError) -> None:
        """Sends the error's code and text."""
        if not self.outcome.done():
            self.outcome.set_result(error)

    def when_cancelled(self, action: Callable[[], None]) -> None:
        """Has `action` called if the client gives up."""
        self._on_cancel = action

    def cancelled(self) -> None:
        """The client gave up, or its deadline passed."""
        if self._on_cancel is not None:
            self._on_cancel()


class _Traffic:
    """The requests that came, alone or on streams, and those of them that are not answered."""

    def __init__(self) -> None:
        self.came = 0
        self.in_progress = 0

    def begin(self) -> None:
        self.came += 1
        self.in_progress += 1

    def end(self, requests: int = 1) -> None:
        self.in_progress -= requests

    async def silence(self) -> None:
        """Returns when all are answered and no more come."""
        seen = -1
        while self.in_progress or self.came != seen:
            seen = self.came
            await asyncio.sleep(_SILENCE_SECONDS)


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
        certificates: for TLS; None for none.
        access: who may call what; None lets all in.

    Raises:
        StartError: the address is taken or not ours.
    """

    def __init__(
        self,
        service: InferenceService,
        host: str,
        port: int,
        limits: ConnectionLimits,
        max_waiting_calls: int = 1000,
        *,
        certificates: Certificates | None = None,
        access: Access | None = None,
    ) -> None:
        self._service = service
        self._host = f"[{host}]" if ":" in host else host
        self._certificates = certificates
        self._access = access
        keep_headers_out_of_the_log()
        self._options = [
            *connection_options(limits),
            ("grpc.server.max_pending_requests", max_waiting_calls),
            ("grpc.server.max_pending_requests_hard_limit", 2 * max_waiting_calls),
            ("grpc.so_reuseport", 0),  # a second server on the same port is a mistake, and must be told so
        ]
        self._traffic = _Traffic()
        self._streams: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._watching: asyncio.Task[None] | None = None
        self._server, self.port = self._make_server(port)

    @property
    def in_progress(self) -> int:
        """Requests that are not answered yet."""
        return self._traffic.in_progress

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
            await asyncio.sleep(_SILENCE_SECONDS)  # in which grpcio writes their last words
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
                    await asyncio.sleep(_SILENCE_SECONDS)
                else:
                    await self._server.start()
                    break

    def _make_server(self, port: int) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((self._routes(),))
        address = f"{self._host}:{port}"
        try:
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
        return Routes({path: (self._handler(rpc), rpc.scope) for path, rpc in rpcs.items()}, self._access)

    def _handler(self, rpc: Rpc) -> "grpc.RpcMethodHandler[bytes, Message]":
        match rpc:
            case Immediate():
                return grpc.unary_unary_rpc_method_handler(self._immediate(rpc), response_serializer=_serialize)
            case Unary():
                return grpc.unary_unary_rpc_method_handler(self._unary(rpc), response_serializer=_serialize)
            case ServerStream():
                return grpc.unary_stream_rpc_method_handler(self._server_stream(rpc), response_serializer=_serialize)
            case TwoWayStream():
                return grpc.stream_stream_rpc_method_handler(self._two_way_stream(rpc), response_serializer=_serialize)

    def _immediate(self, rpc: Immediate) -> Callable[[bytes, _Context], Awaitable[Message]]:
        async def handle(data: bytes, context: _Context) -> Message:
            call = GrpcCall(context, self._access)
            rpc.handler(data, call)
            try:
                return await self._settle(context, call.outcome)
            except asyncio.CancelledError:
                call.cancelled()
                raise

        return handle

    def _unary(self, rpc: Unary) -> Callable[[bytes, _Context], Awaitable[Message]]:
        async def handle(data: bytes, context: _Context) -> Message:
            return await self._settle(context, rpc.call(data))

        return handle

    async def _settle(self, context: _Context, outcome: Awaitable[_Outcome]) -> Message:
        """The response of a call, which counts as in progress until it is there or refused; a refusal ends the call."""
        self._traffic.begin()
        try:
            result = await outcome
            if isinstance(result, RequestError):
                # A status that comes without a message: balancers and clients retry no other form.
                await context.abort(CODES[STATUS_OF[type(result)]], str(result))
        finally:
            self._traffic.end()
        return result

    def _server_stream(self, rpc: ServerStream) -> Callable[[bytes, _Context], Awaitable[None]]:
        async def handle(data: bytes, context: _Context) -> None:
            await self._stream(context, _write(rpc.open(data), context))

        return handle

    def _two_way_stream(self, rpc: TwoWayStream) -> Callable[[AsyncIterator[bytes], _Context], Awaitable[None]]:
        async def handle(requests: AsyncIterator[bytes], context: _Context) -> None:
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

            try:
                caller = GrpcCall(context, self._access).caller
                await self._stream(context, _write(rpc.open(counted(), _deadline(context), caller), context, answered))
            finally:
                self._traffic.end(unanswered)

        return handle

    async def _stream(self, context: _Context, writing: Coroutine[None, None, None]) -> None:
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


async def _write(messages: Messages, context: _Context, written: Callable[[], None] = lambda: None) -> None:
    async with contextlib.aclosing(messages):
        async for message in messages:
            await context.write(message)
            written()


def _cancelled_from_outside() -> bool:
    """Whether it is this task that was cancelled, by grpcio because the client has gone, and not one it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _set_status(context: _Context, error: RequestError) -> None:
    """Ends a stream, whose messages have been sent, with the error's code."""
    context.set_code(CODES[STATUS_OF[type(error)]])
    context.set_details(str(error))


def _deadline(context: _Context) -> float:
    """On the event loop's clock, in seconds."""
    remaining = context.time_remaining()
    return inf if remaining is None else asyncio.get_running_loop().time() + remaining


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
