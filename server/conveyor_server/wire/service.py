"""The RPCs of the server: protobuf messages in, engine, protobuf messages out. Knows no transport.

`ModelInfer` is a plain function: it decodes, queues an entry whose reply slot is the call itself, and returns. The
other RPCs are rare, and coroutines; those with more to them have modules of their own.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from grpc_health.v1 import health_pb2

from conveyor_server import __version__
from conveyor_server.core.errors import Cancelled, DeadlineExceeded, MessageTooLarge, RequestError, ServerFailed
from conveyor_server.core.message_fields import has_more_fields
from conveyor_server.core.model import ModelSpec, TensorSpec
from conveyor_server.core.tensors import Array, decode_inputs, decode_outputs, encode_outputs
from conveyor_server.engine.repository import Repository
from conveyor_server.engine.served_model import ServedModel
from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.wire.call import Call
from conveyor_server.wire.health import Health
from conveyor_server.wire.model_control import ModelControl
from conveyor_server.wire.parameters import Scheduling, read_classification, read_scheduling, with_classes
from conveyor_server.wire.reflection import REFLECTION_SERVICES, Reflection
from conveyor_server.wire.rpc import Immediate, Messages, Rpc, ServerStream, TwoWayStream, Unary, parse
from conveyor_server.wire.statistics import statistics_of
from conveyor_server.wire.status import STATUS_OF, Status
from conveyor_server.wire.streaming import stream_inferences
from conveyor_server.wire.tokens import Scope

log = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"
PLATFORM = "onnxruntime_onnx"
EXTENSIONS = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
"""Extensions of the protocol that are served, by the names that clients look for."""

_DEFAULT_SCHEDULING = Scheduling()
_HARMLESS_BYTES = 2**16
"""Whatever a request of this size is made of, it is parsed in milliseconds."""
_MAX_FIELDS = 4096


class RequestObserver(Protocol):
    """Who wants to know how requests end."""

    def finished(self, request: "Inference", status: Status, seconds: float) -> None:
        """An inference request ended."""


class Inference:
    """The reply slot of one inference, and what observers may know of it."""

    __slots__ = ("_classes", "_observer", "_served", "_started", "_wanted", "asked", "call", "error", "rows", "trace")

    def __init__(self, call: Call, observer: RequestObserver) -> None:
        self.call = call
        self.asked = ""
        """The model that the client named, there or not."""
        self.rows = 0
        self.error: RequestError | None = None
        """Why there is no answer."""
        self.trace: object = None
        """What a tracer keeps with the request."""
        self._observer = observer
        self._started = time.perf_counter()
        self._served: ServedModel | None = None
        self._wanted: Sequence[int] = ()
        self._classes: Mapping[int, int] = {}

    @property
    def spec(self) -> ModelSpec | None:
        """The model that answers; None before it is found."""
        return self._served.spec if self._served else None

    def expect(self, served: ServedModel) -> None:
        """Says which model will answer."""
        self._served = served

    def want(self, outputs: Sequence[int], classes: Mapping[int, int]) -> None:
        """Says which of its outputs the client wants, and of which of them only so many classes."""
        self._wanted = outputs
        self._classes = classes

    def answer(self, outputs: Sequence[Array]) -> None:
        """Sends the outputs that the client wants."""
        assert self._served is not None, "An answer came before the question. This is a bug."
        spec = self._served.spec
        if self._classes:
            try:
                outputs = with_classes(outputs, self._classes, spec, self._served.labels)
            except RequestError as error:
                self.fail(error)
                return
        self.call.answer(encode_outputs(outputs, self._wanted, spec, self.call.request_id))
        self._finished(Status.OK)

    def fail(self, error: RequestError) -> None:
        """Sends the error; one of ours goes to the log, with the request's id."""
        if isinstance(error, ServerFailed):
            # Failures of ours are found in the log by this id; clients may not have sent one.
            reference = self.call.request_id or uuid.uuid4().hex
            log.error("Request %s failed: %s", reference, error, extra={"request_id": reference})
            error = ServerFailed(f"[request id: {reference}] {error}")
        self.error = error
        self.call.fail(error)
        self._finished(STATUS_OF[type(error)])

    def given_up(self) -> None:
        """The client has gone: it cancelled, or its deadline passed."""
        expired = asyncio.get_running_loop().time() >= self.call.deadline
        self._finished(STATUS_OF[DeadlineExceeded if expired else Cancelled])

    def _finished(self, status: Status) -> None:
        seconds = time.perf_counter() - self._started
        if self._served is not None:
            statistics = self._served.statistics
            count = statistics.answered if status is Status.OK else statistics.failed
            count(seconds, time.time_ns() // 1_000_000)
        self._observer.finished(self, status, seconds)


class InferenceService:
    """The handlers of all RPCs over one repository.

    Args:
        repository: the models.
        observer: who is told of each inference request.
        name: what the server calls itself.
        allow_admin: whether clients may load and unload models.
        explicit: whether models are loaded by request, and not with what is in the repository.
    """

    def __init__(
        self,
        repository: Repository,
        observer: RequestObserver,
        *,
        name: str = "conveyor",
        allow_admin: bool = False,
        explicit: bool = False,
    ) -> None:
        self._repository = repository
        self._observer = observer
        self._name = name
        self._health = health = Health(repository, SERVICE)
        control = ModelControl(repository, allowed=allow_admin, explicit=explicit)
        reflection = Reflection([SERVICE, HEALTH_SERVICE, *REFLECTION_SERVICES])
        self.rpcs: dict[str, dict[str, Rpc]] = {
            SERVICE: {
                "ModelInfer": Immediate(self.model_infer, Scope.INFER),
                "ModelStreamInfer": TwoWayStream("ModelStreamInfer", self.model_stream_infer, Scope.INFER),
                # Readiness is open, here and in the health protocol: balancers and probes carry no tokens.
                "ServerLive": Unary(pb.ServerLiveRequest, self.server_live, None),
                "ServerReady": Unary(pb.ServerReadyRequest, self.server_ready, None),
                "ModelReady": Unary(pb.ModelReadyRequest, self.model_ready, None),
                "ServerMetadata": Unary(pb.ServerMetadataRequest, self.server_metadata, Scope.READ),
                "ModelMetadata": Unary(pb.ModelMetadataRequest, self.model_metadata, Scope.READ),
                "ModelConfig": Unary(pb.ModelConfigRequest, self.model_config, Scope.READ),
                "ModelStatistics": Unary(pb.ModelStatisticsRequest, self.model_statistics, Scope.READ),
                "RepositoryIndex": Unary(pb.RepositoryIndexRequest, control.index, Scope.READ),
                "RepositoryModelLoad": Unary(pb.RepositoryModelLoadRequest, control.load, Scope.ADMIN),
                "RepositoryModelUnload": Unary(pb.RepositoryModelUnloadRequest, control.unload, Scope.ADMIN),
            },
            HEALTH_SERVICE: {
                "Check": Unary(health_pb2.HealthCheckRequest, health.check, None),
                "Watch": ServerStream(health_pb2.HealthCheckRequest, health.watch, None),
            },
            **{
                name: {"ServerReflectionInfo": TwoWayStream("ServerReflectionInfo", reflection.info, Scope.READ)}
                for name in REFLECTION_SERVICES
            },
        }

    @property
    def leaving(self) -> bool:
        """Set when the server is about to stop: it says that it is not ready, and still serves."""
        return self._health.leaving

    @leaving.setter
    def leaving(self, value: bool) -> None:
        self._health.leaving = value

    @property
    def ready(self) -> bool:
        """Whether a balancer should send requests here: everything was tried, something answers, no stop is near."""
        return self._health.ready

    @property
    def max_request_bytes(self) -> int | None:
        """The most that an inference request can have, as the models are now; None where they limit nothing."""
        return self._repository.max_request_bytes

    def model_infer(self, data: bytes, call: Call) -> None:
        """Decodes and queues one inference; `call` is answered or failed when its rows have run."""
        reply = Inference(call, self._observer)
        try:
            self._check_size(data)
            request = parse(pb.ModelInferRequest, data)
            call.request_id, reply.asked = request.id, request.model_name
            served = self._repository.get(request.model_name, request.model_version)
            spec = served.spec
            reply.expect(served)
            scheduling = read_scheduling(request) if request.parameters else _DEFAULT_SCHEDULING
            outputs = decode_outputs(request, spec)
            reply.want(outputs, read_classification(request, spec) if request.outputs else {})
            inputs, reply.rows = decode_inputs(request, spec)
            entry = served.batcher.submit(inputs, reply.rows, call.deadline, reply, *scheduling)
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

    def _check_size(self, data: bytes) -> None:
        """Refuses what could only be refused after it has cost the time and memory to parse it."""
        limit = self._repository.max_request_bytes
        if limit is not None and len(data) > limit:
            raise MessageTooLarge(
                f"The request has {len(data)} bytes; no model here takes more than {limit}, at its max_batch_size."
            )
        if len(data) > _HARMLESS_BYTES and has_more_fields(data, _MAX_FIELDS):
            raise MessageTooLarge(f"The request has more than {_MAX_FIELDS} inputs, outputs and parameters.")

    def model_stream_infer(self, requests: AsyncIterator[bytes], deadline: float, caller: str) -> Messages:
        """Many inferences on one stream."""
        return stream_inferences(requests, deadline, self.model_infer, caller)

    async def server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """The process answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Whether requests should come here."""
        return pb.ServerReadyResponse(ready=self.ready)

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Whether the model answers; an unknown one does not, which is no error."""
        return pb.ModelReadyResponse(ready=self._health.model_ready(request.name, request.version))

    async def server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """Name, version, extensions, and the execution providers in use."""
        providers = sorted({state.served.model.provider for state in self._repository.states if state.served})
        extensions = [*EXTENSIONS, *(f"execution_provider({provider})" for provider in providers)]
        return pb.ServerMetadataResponse(name=self._name, version=__version__, extensions=extensions)

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """The signature of a model; shapes include the batch axis."""
        spec = self._repository.get(request.name, request.version).spec
        states = [state for state in self._repository.states if state.name == spec.name]
        return pb.ModelMetadataResponse(
            name=spec.name,
            versions=[str(state.version) for state in states if state.served],
            platform=PLATFORM,
            inputs=map(_tensor_metadata, spec.inputs),
            outputs=map(_tensor_metadata, spec.outputs),
        )

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """How a model is served. Its parameters are what the ONNX file says of itself: labels, input range."""
        return pb.ModelConfigResponse(config=self._repository.get(request.name, request.version).config)

    async def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """What the models have done so far."""
        return statistics_of(self._repository, request)


def _tensor_metadata(tensor: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
