"""A server without a socket, as the steps of a client see it: doubles what comes, and fails when the test says so."""

import numpy as np
from google.protobuf.message import Message

from conveyor_server.client.asking import MODEL_CONFIG, MODEL_INFER, MODEL_METADATA, Send
from conveyor_server.client.errors import CallError, error_of
from conveyor_server.core.errors import InvalidRequest
from conveyor_server.core.model import ModelSpec, TensorSpec
from conveyor_server.core.responses import ResponseEncoder
from conveyor_server.core.tensors import decode_inputs
from conveyor_server.generated import inference_pb2 as pb

POISON = -1.0
"""A value that the model refuses."""

DOUBLE = ModelSpec(
    "double", 1, (TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),), max_batch_size=100
)


class PuppetServer:
    """Answers the steps of a client at once.

    Args:
        spec: the model that it has, with one input and one output of the same shape.
    """

    def __init__(self, spec: ModelSpec = DOUBLE) -> None:
        self.spec = spec
        self.asked: list[str] = []
        self.requests: list[pb.ModelInferRequest] = []
        self.timeouts: list[float] = []
        self.failures: list[CallError | None] = []
        """What becomes of the next inferences; None lets one through."""
        self.without_config = False

    @property
    def rows(self) -> list[int]:
        """Of each inference that came."""
        return [request.inputs[0].shape[0] for request in self.requests]

    def answer(self, step: Send) -> Message:
        self.asked.append(step.method.name)
        self.timeouts.append(step.timeout)
        if step.method is MODEL_METADATA:
            return self._metadata()
        if step.method is MODEL_CONFIG:
            if self.without_config:
                raise error_of("UNIMPLEMENTED", "no such method", "puppet")
            response = pb.ModelConfigResponse()
            response.config.max_batch_size = self.spec.max_batch_size
            return response
        assert step.method is MODEL_INFER
        return self.infer(pb.ModelInferRequest.FromString(step.request))

    def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        self.requests.append(request)
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        try:
            (array,), _ = decode_inputs(request, self.spec)
        except InvalidRequest as error:
            raise error_of("INVALID_ARGUMENT", str(error), "puppet") from error
        if (array == POISON).any():
            raise error_of("INVALID_ARGUMENT", "poison", "puppet")
        response = ResponseEncoder(self.spec).encode([np.asarray(array * 2)], [0], request.id)
        return pb.ModelInferResponse.FromString(response)

    def _metadata(self) -> pb.ModelMetadataResponse:
        response = pb.ModelMetadataResponse(name=self.spec.name, versions=["9", "10"])
        for kind, tensors in (("inputs", self.spec.inputs), ("outputs", self.spec.outputs)):
            for tensor in tensors:
                getattr(response, kind).add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return response
