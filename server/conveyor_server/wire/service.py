"""The RPCs of the server: protobuf messages in, engine, protobuf messages out. Knows no transport.

`ModelInfer` is a plain function: it decodes, queues an entry whose reply slot is the call itself, and returns. The
other RPCs are rare, and coroutines.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2

from conveyor_server import __version__
from conveyor_server.core.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    RequestError,
    ServerFailed,
)
from conveyor_server.core.model import ModelSpec, TensorSpec
from conveyor_server.core.tensors import Array, decode_inputs, decode_outputs, encode_outputs
from conveyor_server.engine.repository import ModelStatus, Repository
from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.wire.call import Call
from conveyor_server.wire.model_config import describe
from conveyor_server.wire.status import STATUS_OF, Status

log = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"
PLATFORM = "onnxruntime_onnx"

_M = TypeVar("_M", bound=Message)


class RequestObserver(Protocol):
    """Who wants to know how requests end."""

    def finished(self, model: str, status: Status, seconds: float) -> None:
        """An inference request for `model` ended; the name is empty when there is no such model."""


@dataclass(frozen=True)
class Rpc:
    """A unary RPC: its messages and its handler."""

    request: type[Message]
    handler: Callable[[Any], Awaitable[Message]]


class _Inference:
    """The reply slot of one ModelInfer call."""

    __slots__ = ("_call", "_observer", "_spec", "_started", "_wanted", "request_id")

    def __init__(self, call: Call, observer: RequestObserver, request_id: str) -> None:
        self._call = call
        self._observer = observer
        self._started = time.perf_counter()
        self._spec: ModelSpec | None = None
        self._wanted: Sequence[int] = ()
        self.request_id = request_id

    def expect(self, spec: ModelSpec, wanted: Sequence[int]) -> None:
        """Says which model will answer, and which of its outputs the client wants."""
        self._spec = spec
        self._wanted = wanted

    def answer(self, outputs: Sequence[Array]) -> None:
        assert self._spec is not None, "An answer came before the question. This is a bug."
        self._call.answer(encode_outputs(outputs, self._wanted, self._spec, self.request_id))
        self._finished(Status.OK)

    def fail(self, error: RequestError) -> None:
        if isinstance(error, ServerFailed):
            # Failures of ours are found in the log by this id; clients may not have sent one.
            reference = self.request_id or uuid.uuid4().hex
            log.error("Request %s failed: %s", reference, error)
            error = ServerFailed(f"[request id: {reference}] {error}")
        self._call.fail(error)
        self._finished(STATUS_OF[type(error)])

    def given_up(self) -> None:
        """The client has gone: it cancelled, or its deadline passed."""
        expired = asyncio.get_running_loop().time() >= self._call.deadline
        self._finished(STATUS_OF[DeadlineExceeded if expired else Cancelled])

    def _finished(self, status: Status) -> None:
        model = self._spec.name if self._spec else ""
        self._observer.finished(model, status, time.perf_counter() - self._started)


class InferenceService:
    """The handlers of all RPCs over one repository."""

    def __init__(self, repository: Repository, observer: RequestObserver) -> None:
        self._repository = repository
        self._observer = observer
        self.leaving = False
        """Set when the server is about to stop: it says that it is not ready, and still serves."""
        self.rpcs: dict[str, dict[str, Rpc]] = {
            SERVICE: {
                "ServerLive": Rpc(pb.ServerLiveRequest, self.server_live),
                "ServerReady": Rpc(pb.ServerReadyRequest, self.server_ready),
                "ModelReady": Rpc(pb.ModelReadyRequest, self.model_ready),
                "ServerMetadata": Rpc(pb.ServerMetadataRequest, self.server_metadata),
                "ModelMetadata": Rpc(pb.ModelMetadataRequest, self.model_metadata),
                "ModelConfig": Rpc(pb.ModelConfigRequest, self.model_config),
                "RepositoryIndex": Rpc(pb.RepositoryIndexRequest, self.repository_index),
            },
            HEALTH_SERVICE: {"Check": Rpc(health_pb2.HealthCheckRequest, self.health_check)},
        }

    @property
    def ready(self) -> bool:
        """Whether a balancer should send requests here: everything was tried, something answers, no stop is near."""
        repository = self._repository
        return repository.loaded and not self.leaving and any(state.served for state in repository.states)

    def model_infer(self, data: bytes, call: Call) -> None:
        """Decodes and queues one inference; `call` is answered or failed when its rows have run."""
        reply = _Inference(call, self._observer, "")
        try:
            request = parse(pb.ModelInferRequest, data)
            reply.request_id = request.id
            served = self._repository.get(request.model_name, request.model_version)
            spec = served.spec
            reply.expect(spec, decode_outputs(request, spec))
            inputs, rows = decode_inputs(request, spec)
            entry = served.batcher.submit(inputs, rows, call.deadline, reply)
        except RequestError as error:
            reply.fail(error)
        except Exception:
            log.exception("Decoding a request failed. This is a bug.")
            reply.fail(ServerFailed("The request could not be processed. The server's log has the details."))
        else:

            def give_up() -> None:
                served.batcher.discard(entry)
                reply.given_up()

            call.when_cancelled(give_up)

    async def call(self, rpc: Rpc, data: bytes) -> Message | RequestError:
        """The outcome of any RPC but `ModelInfer`."""
        try:
            return await rpc.handler(parse(rpc.request, data))
        except RequestError as error:
            return error
        except Exception:
            log.exception("%s failed. This is a bug.", rpc.request.DESCRIPTOR.full_name)
            return ServerFailed("The request could not be processed. The server's log has the details.")

    async def server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """The process answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Whether requests should come here."""
        return pb.ServerReadyResponse(ready=self.ready)

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Whether the model answers; an unknown one does not, which is no error."""
        return pb.ModelReadyResponse(ready=self._model_ready(request.name, request.version))

    async def server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """Name, version, extensions, and the execution providers in use."""
        providers = sorted({state.served.model.provider for state in self._repository.states if state.served})
        extensions = ["model_configuration", "binary_tensor_data"]
        extensions += [f"execution_provider({provider})" for provider in providers]
        return pb.ServerMetadataResponse(name="conveyor", version=__version__, extensions=extensions)

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """The signature of a model; shapes include the batch axis."""
        spec = self._repository.get(request.name, request.version).spec
        return pb.ModelMetadataResponse(
            name=spec.name,
            versions=[str(spec.version)],
            platform=PLATFORM,
            inputs=map(_tensor_metadata, spec.inputs),
            outputs=map(_tensor_metadata, spec.outputs),
        )

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """How a model is served. Its parameters are what the ONNX file says of itself: labels, input range."""
        return pb.ModelConfigResponse(config=describe(self._repository.get(request.name, request.version)))

    async def repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Every model of the repository with its state; the reason tells why one does not answer."""
        if request.repository_name:
            raise InvalidRequest(
                f"There is one repository, without a name; '{request.repository_name[:100]}' is not it."
            )
        response = pb.RepositoryIndexResponse()
        for state in self._repository.states:
            if state.status is ModelStatus.READY or not request.ready:
                reason = "" if state.status is ModelStatus.READY else state.reason
                response.models.add(name=state.name, version=str(state.version), state=state.status, reason=reason)
        return response

    async def health_check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        """The health protocol of gRPC: the empty name and ours mean the server, any other name means that model."""
        if request.service in ("", SERVICE):
            serving = self.ready
        elif any(state.name == request.service for state in self._repository.states):
            serving = not self.leaving and self._model_ready(request.service, "")
        else:
            raise ModelNotFound(f"unknown service: '{request.service[:100]}' is neither '{SERVICE}' nor a model")
        response = health_pb2.HealthCheckResponse
        return response(status=response.SERVING if serving else response.NOT_SERVING)

    def _model_ready(self, name: str, version: str) -> bool:
        try:
            return self._repository.find(name, version).served is not None
        except ModelNotFound:
            return False


def parse(kind: type[_M], data: bytes) -> _M:
    """A message from its bytes.

    Raises:
        InvalidRequest: they are not such a message.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"The request is not a valid {kind.DESCRIPTOR.full_name} message.") from error


def _tensor_metadata(tensor: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
