"""gRPC by grpcio's asyncio server. The only module of the server that imports grpc.

Counts the calls in progress itself: grpcio's own graceful stop does not wait for all of them.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from math import inf

import grpc
import grpc.aio
from google.protobuf.message import Message

from conveyor_server.core.errors import RequestError, StartError
from conveyor_server.wire.service import SERVICE, InferenceService, Rpc
from conveyor_server.wire.status import STATUS_OF

_SILENCE_SECONDS = 0.1
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_Context = grpc.aio.ServicerContext[bytes, Message]
_Outcome = Message | RequestError
_Handler = Callable[[bytes, _Context], Awaitable[Message | None]]


class GrpcCall:
    """A call of grpcio as the service sees it: a slot that resolves a future."""

    def __init__(self, context: _Context) -> None:
        loop = asyncio.get_running_loop()
        remaining = context.time_remaining()
        self.deadline = inf if remaining is None else loop.time() + remaining
        self.outcome: asyncio.Future[_Outcome] = loop.create_future()
        self._on_cancel: Callable[[], None] | None = None

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


class GrpcTransport:
    """The gRPC server of one service.

    Args:
        service: the handlers.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        max_message_bytes: size limit of one request or response.

    Raises:
        StartError: the address is taken or not ours.
    """

    def __init__(self, service: InferenceService, host: str, port: int, max_message_bytes: int) -> None:
        self._service = service
        self._calls = 0
        self._in_progress = 0
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.so_reuseport", 0),  # a second server on the same port is a mistake, and must be told so
            ]
        )
        for name, rpcs in service.rpcs.items():
            handlers = {method: _unary(self._coroutine(rpc)) for method, rpc in rpcs.items()}
            if name == SERVICE:
                handlers["ModelInfer"] = _unary(self._model_infer)
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartError(
                f"gRPC cannot listen on {address}: the port is taken or the address is not of this machine. Choose "
                "another with --grpc-port or --host."
            ) from error

    async def start(self) -> None:
        """Begins to accept connections."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Waits until all calls are answered and no more come, at most `grace` seconds, then closes the connections.

        The service refuses new calls by now, so clients and balancers turn away. Calls that still arrive in the moment
        of grpcio's own stop would be CANCELLED, which nobody retries (grpc issue 41785); hence the wait for silence.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._silence(), grace)
        await self._server.stop(0)

    async def _silence(self) -> None:
        seen = -1
        while self._in_progress or self._calls != seen:
            seen = self._calls
            await asyncio.sleep(_SILENCE_SECONDS)

    def _coroutine(self, rpc: Rpc) -> _Handler:
        async def handle(data: bytes, context: _Context) -> Message | None:
            return await self._settle(context, self._service.call(rpc, data))

        return handle

    async def _model_infer(self, data: bytes, context: _Context) -> Message | None:
        call = GrpcCall(context)
        self._service.model_infer(data, call)
        try:
            return await self._settle(context, call.outcome)
        except asyncio.CancelledError:
            call.cancelled()
            raise

    async def _settle(self, context: _Context, outcome: Awaitable[_Outcome]) -> Message | None:
        """Waits for the outcome of a call, which counts as in progress until then, and turns it into grpcio's."""
        self._calls += 1
        self._in_progress += 1
        try:
            result = await outcome
        finally:
            self._in_progress -= 1
        if isinstance(result, RequestError):
            # Not context.abort(): grpcio's graceful stop does not wait for calls that ended by it (grpc issue 37239).
            context.set_code(_CODES[STATUS_OF[type(result)]])
            context.set_details(str(result))
            return None
        return result


def _unary(handler: _Handler) -> "grpc.RpcMethodHandler[bytes, Message]":
    return grpc.unary_unary_rpc_method_handler(handler, response_serializer=lambda message: message.SerializeToString())
