"""A puppet behind a real socket of grpcio, for what a client does with connections."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from conveyor_server.client.asking import MODEL_CONFIG, MODEL_INFER, MODEL_METADATA, Method, Send
from conveyor_server.client.errors import CallError
from conveyor_server.generated import inference_pb2 as pb
from support.puppet_server import PuppetServer

_METHODS = (MODEL_METADATA, MODEL_CONFIG, MODEL_INFER)


@dataclass
class Seen:
    """What came with one inference."""

    peer: str
    metadata: dict[str, str | bytes]
    seconds_left: float | None


class GrpcPuppet:
    """Serves a `PuppetServer` while the `with` block runs.

    Args:
        address: where to listen; port 0 takes a free one.
        credentials: for TLS.
        pushback: milliseconds that go along with a refusal, as text.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        pushback: str | None = None,
        options: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.puppet = PuppetServer()
        self.seen: list[Seen] = []
        self.ready = True
        self.junk: bytes | None = None
        """What inferences are answered with instead."""
        self.holding = threading.Event()
        """Set, each inference waits for a permit."""
        self.began = threading.Semaphore(0)
        self.permits = threading.Semaphore(0)
        self.cancelled = threading.Event()
        self._pushback = pushback
        self.health = health.HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(40), options=options)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        handlers = {method.name: self._handler(method) for method in _METHODS}
        handlers["ServerReady"] = grpc.unary_unary_rpc_method_handler(
            lambda request, context: pb.ServerReadyResponse(ready=self.ready), response_serializer=_serialize
        )
        handlers["ServerLive"] = grpc.unary_unary_rpc_method_handler(
            lambda request, context: pb.ServerLiveResponse(live=True), response_serializer=_serialize
        )
        service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
        self._server.add_generic_rpc_handlers((service,))
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        self.url = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        self.serving = True

    @property
    def serving(self) -> bool:
        """What it says of its health."""
        return self._serving

    @serving.setter
    def serving(self, value: bool) -> None:
        self._serving = value
        status = health_pb2.HealthCheckResponse
        self.health.set("", status.SERVING if value else status.NOT_SERVING)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.permits.release(1000)
        self._server.stop(0).wait()

    def stop(self) -> None:
        """Ends all connections."""
        self._server.stop(0).wait()

    def _handler(self, method: Method[Any]) -> "grpc.RpcMethodHandler[bytes, Message | bytes]":
        def handle(request: bytes, context: grpc.ServicerContext) -> Message | bytes:
            if method is MODEL_INFER:
                self._note(context)
                if self.junk is not None:
                    return self.junk
            try:
                return self.puppet.answer(Send(method, request, 0.0))
            except CallError as error:
                if self._pushback is not None:
                    context.set_trailing_metadata((("grpc-retry-pushback-ms", self._pushback),))
                context.abort(getattr(grpc.StatusCode, error.code), error.details)

        return grpc.unary_unary_rpc_method_handler(handle, response_serializer=_serialize)

    def _note(self, context: grpc.ServicerContext) -> None:
        metadata = dict(context.invocation_metadata())
        self.seen.append(Seen(context.peer(), metadata, context.time_remaining()))
        context.add_callback(self.cancelled.set)
        self.began.release()
        if self.holding.is_set():
            assert self.permits.acquire(timeout=30), "the test never let this call through"


def _serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
