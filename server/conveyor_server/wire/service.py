"""The RPCs of the server: protobuf messages in, engine, protobuf messages out. Knows no transport.

`ModelInfer` is a plain function: it decodes, queues an entry whose reply slot is the call itself, and returns. The
other RPCs are rare, and coroutines; those with more to them have modules of their own.
"""

import logging
from collections.abc import AsyncIterator, Mapping

from grpc_health.v1 import health_pb2

from conveyor_server import __version__
from conveyor_server.core.errors import MessageTooLarge, RequestError, ServerFailed
from conveyor_server.core.message_fields import has_more_fields
from conveyor_server.core.model import Array, TensorSpec
from conveyor_server.core.request_templates import RequestTemplates
from conveyor_server.core.tensors import decode_inputs
from conveyor_server.engine.repository import Repository
from conveyor_server.engine.served_model import ServedModel
from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.wire.call import Call, Context
from conveyor_server.wire.health import Health
from conveyor_server.wire.inference import Inference, RequestObserver, Wish, read_wish
from conveyor_server.wire.merging import sum_statistics
from conveyor_server.wire.model_control import ModelControl
from conveyor_server.wire.reflection import REFLECTION_SERVICES, Reflection
from conveyor_server.wire.rpc import MAX_SMALL_BYTES, Immediate, Messages, Rpc, ServerStream, TwoWayStream, Unary, parse
from conveyor_server.wire.siblings import Siblings
from conveyor_server.wire.statistics import statistics_of
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

_HARMLESS_BYTES = 2**16
"""Whatever a request of this size is made of, it is parsed in milliseconds."""
_MAX_FIELDS = 4096


class InferenceService:
    """The handlers of all RPCs over one repository.

    Args:
        repository: the models.
        observer: who is told of each inference request.
        name: what the server calls itself.
        allow_admin: whether clients may load and unload models.
        explicit: whether models are loaded by request, and not with what is in the repository.
        siblings: all processes that serve the same port; None when it is this one alone.
    """

    def __init__(
        self,
        repository: Repository,
        observer: RequestObserver,
        *,
        name: str = "conveyor",
        allow_admin: bool = False,
        explicit: bool = False,
        siblings: Siblings | None = None,
    ) -> None:
        self._repository = repository
        self._observer = observer
        self._templates: RequestTemplates[Wish] = RequestTemplates()
        self._name = name
        self._health = health = Health(repository, SERVICE)
        self._siblings = siblings
        control = ModelControl(repository, siblings, allowed=allow_admin, explicit=explicit)
        reflection = Reflection([SERVICE, HEALTH_SERVICE, *REFLECTION_SERVICES])
        self.rpcs: Mapping[str, Mapping[str, Rpc]] = {
            SERVICE: {
                "ModelInfer": Immediate(self.model_infer, Scope.INFER, self._largest),
                "ModelStreamInfer": TwoWayStream(
                    "ModelStreamInfer", self.model_stream_infer, Scope.INFER, self._largest
                ),
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
                name: {
                    "ServerReflectionInfo": TwoWayStream(
                        "ServerReflectionInfo", reflection.info, Scope.READ, lambda: MAX_SMALL_BYTES
                    )
                }
                for name in REFLECTION_SERVICES
            },
        }

    @property
    def leaving(self) -> bool:
        """Set when requests should go elsewhere: it says that it is not ready, and still serves."""
        return self._health.leaving

    @leaving.setter
    def leaving(self, value: bool) -> None:
        self._health.leaving = value

    @property
    def ready(self) -> bool:
        """Whether a balancer should send requests here: everything was tried, something answers, no stop is near."""
        return self._health.ready

    @property
    def answers(self) -> bool:
        """Whether everything was tried, and some model answers."""
        return self._health.answers

    @property
    def max_request_bytes(self) -> int | None:
        """The most that an inference request can have, as the models are now; None where they limit nothing."""
        return self._repository.max_request_bytes

    def model_infer(self, data: bytes, call: Call) -> None:
        """Decodes and queues one inference; `call` is answered or failed when its rows have run."""
        reply = Inference(call, self._observer)
        try:
            served, inputs = self._read(data, reply)
            wish = reply.wish
            reply.entry = served.batcher.submit(inputs, reply.rows, call.deadline, reply, wish.priority, wish.timeout)
        except RequestError as error:
            reply.fail(error)
        except Exception:
            log.exception("Decoding a request failed. This is a bug.")
            reply.fail(ServerFailed("The request could not be processed. The server's log has the details."))
        else:
            call.when_cancelled(reply.give_up)

    def _read(self, data: bytes, reply: Inference) -> tuple[ServedModel, tuple[Array, ...]]:
        """Who answers, and with what inputs; the rest of what the request says goes to its reply."""
        found = self._templates.find(data)
        if found is not None:
            template, reply.call.request_id = found
            reply.wish = wish = template.wish
            served = self._repository.get(wish.model, wish.version)
            if served is wish.served:
                reply.served, reply.rows = served, template.rows
                return served, (template.tensor(data),)
            self._templates.forget(template)
        self._check_size(data)
        request = parse(pb.ModelInferRequest, data)
        reply.call.request_id, reply.wish = request.id, Wish(request.model_name, request.model_version)
        reply.served = served = self._repository.get(request.model_name, request.model_version)
        reply.wish = wish = read_wish(request, served)
        inputs, reply.rows = decode_inputs(request, served.spec)
        if len(inputs) == 1:
            self._templates.learn(data, request, inputs[0], reply.rows, wish)
        return served, inputs

    def _largest(self) -> int | None:
        return self._repository.max_request_bytes

    def _check_size(self, data: bytes) -> None:
        """Refuses what could only be refused after it has cost the time and memory to parse it."""
        limit = self._repository.max_request_bytes
        if limit is not None and len(data) > limit:
            raise MessageTooLarge(
                f"The request has {len(data)} bytes; no model here takes more than {limit}, at its max_batch_size."
            )
        if len(data) > _HARMLESS_BYTES and has_more_fields(data, _MAX_FIELDS):
            raise MessageTooLarge(f"The request has more than {_MAX_FIELDS} inputs, outputs and parameters.")

    def model_stream_infer(self, requests: AsyncIterator[bytes], context: Context) -> Messages:
        """Many inferences on one stream."""
        return stream_inferences(requests, context.deadline, self.model_infer, context.caller)

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
        if self._siblings is None:
            return statistics_of(self._repository, request)
        return sum_statistics(await self._siblings.statistics(request.SerializeToString()))


def _tensor_metadata(tensor: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
