"""The calls of a client over one gRPC channel. Knows arrays and messages, not pictures or labels."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar, cast

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from conveyor_server.core.byte_strings import decode_byte_strings, encode_byte_strings
from conveyor_server.core.model import NUMPY_TYPES, TensorSpec
from conveyor_server.core.tensors import Array
from conveyor_server.generated import inference_pb2 as pb

_SERVICE = "/inference.GRPCInferenceService/"
_M = TypeVar("_M", bound=Message)


class PredictionError(Exception):
    """The server did not answer, or answered with an error.

    Attributes:
        code: the gRPC status code's name, for example `NOT_FOUND` or `DEADLINE_EXCEEDED`.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


@dataclass(frozen=True)
class ModelDescription:
    """What the server says of a model."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: Mapping[str, str]
    """The model's metadata; values of the exporter's keys (`conveyor.labels`, …) are JSON or plain text."""

    @property
    def labels(self) -> list[str]:
        """Class names in the order of the outputs; empty when the model carries none."""
        labels: list[str] = json.loads(self.parameters.get("conveyor.labels", "[]"))
        return labels

    @property
    def threshold(self) -> float:
        """The probability above which a binary model says yes."""
        return float(self.parameters.get("conveyor.threshold", "0.5"))

    @property
    def input_range(self) -> tuple[float, float]:
        """The values that black and white have in the model's input; 0 and 1 when the model does not say."""
        low, high = json.loads(self.parameters.get("conveyor.input.range", "[0.0, 1.0]"))
        return float(low), float(high)


class Client:
    """A connection to one server. Use it in a `with` block, or call `close`; it may be shared by threads.

    Args:
        url: `host:port` of the gRPC service.
        timeout: seconds that a call may take; the server does not run what it could not answer in time.
    """

    def __init__(self, url: str = "127.0.0.1:8001", *, timeout: float = 10.0) -> None:
        self.url = url
        self._timeout = timeout
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(url, options=options)
        self._described: dict[tuple[str, str], ModelDescription] = {}

    def predict(self, model: str, images: ArrayLike, *, version: str = "", timeout: float | None = None) -> Array:
        """The model's answers to a batch of images.

        Args:
            model: name of a model with one input and one output.
            images: `[batch, …]` as the model's input wants it; floating-point values are cast to its precision.
            version: the model's version; empty for the server's choice.
            timeout: seconds, instead of the client's.

        Returns:
            `[batch, …]`, of the output's dtype.

        Raises:
            PredictionError: the server answered with an error, or not in time.
            TypeError: the images are integers and the model wants floating point, or the other way round.
            ValueError: the model has several inputs; use `infer`.
        """
        description = self.describe(model, version, timeout=timeout)
        if len(description.inputs) != 1:
            names = ", ".join(tensor.name for tensor in description.inputs)
            raise ValueError(f"Model '{model}' has several inputs ({names}); call infer() with an array for each.")
        outputs = self.infer(model, {description.inputs[0].name: images}, version=version, timeout=timeout)
        return outputs[description.outputs[0].name]

    def infer(
        self, model: str, inputs: Mapping[str, ArrayLike], *, version: str = "", timeout: float | None = None
    ) -> dict[str, Array]:
        """All outputs of a model by name, for an array for each of its inputs. Raises as `predict` does."""
        description = self.describe(model, version, timeout=timeout)
        specs = {tensor.name: tensor for tensor in description.inputs}
        request = pb.ModelInferRequest(model_name=model, model_version=version)
        for name, value in inputs.items():
            if name not in specs:
                raise ValueError(f"Model '{model}' has no input '{name}'; it has {', '.join(specs)}.")
            array = _as_dtype(value, specs[name])
            request.inputs.add(name=name, datatype=specs[name].datatype, shape=array.shape)
            request.raw_input_contents.append(
                encode_byte_strings(array) if array.dtype == object else np.ascontiguousarray(array).tobytes()
            )
        return _decode(self._call("ModelInfer", request, pb.ModelInferResponse, timeout))

    def describe(self, model: str, version: str = "", *, timeout: float | None = None) -> ModelDescription:
        """Signature and metadata of a model; asked once, then remembered."""
        key = (model, version)
        if key not in self._described:
            asked = pb.ModelMetadataRequest(name=model, version=version)
            metadata = self._call("ModelMetadata", asked, pb.ModelMetadataResponse, timeout)
            wanted = pb.ModelConfigRequest(name=model, version=version)
            config = self._call("ModelConfig", wanted, pb.ModelConfigResponse, timeout).config
            self._described[key] = ModelDescription(
                name=metadata.name,
                version=max(metadata.versions, key=int, default=""),
                inputs=tuple(map(_spec, metadata.inputs)),
                outputs=tuple(map(_spec, metadata.outputs)),
                parameters={name: value.string_value for name, value in config.parameters.items()},
            )
        return self._described[key]

    def server(self) -> pb.ServerMetadataResponse:
        """The server's name, version and extensions."""
        return self._call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)

    def ready(self) -> bool:
        """Whether the server takes requests."""
        return self._call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready

    def models(self) -> list[pb.RepositoryIndexResponse.ModelIndex]:
        """Every model of the repository with version, state and, if it does not answer, the reason."""
        return list(self._call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse).models)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, request: Message, answer: type[_M], timeout: float | None = None) -> _M:
        call = self._channel.unary_unary(_SERVICE + method, _serialize, answer.FromString)
        try:
            return call(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            failed = cast("grpc.Call", error)  # what grpcio raises is the call itself
            raise PredictionError(failed.code().name, f"{failed.details()} (server {self.url})") from error


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _as_dtype(value: ArrayLike, tensor: TensorSpec) -> Array:
    array = np.asarray(value)
    if tensor.datatype == "BYTES":
        return array.astype(np.object_)
    if array.dtype.kind != tensor.dtype.kind:
        raise TypeError(
            f"Input '{tensor.name}' wants {tensor.dtype}, got {array.dtype}. Convert the values as the model expects "
            "them: pixels of 0 to 255 are usually divided by 255."
        )
    return array.astype(tensor.dtype, copy=False)


def _decode(response: pb.ModelInferResponse) -> dict[str, Array]:
    outputs: dict[str, Array] = {}
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        shape = tuple(tensor.shape)
        if tensor.datatype == "BYTES":
            flat: Array = decode_byte_strings(raw, tensor.name, limit=int(np.prod(shape)))
        else:
            flat = np.frombuffer(raw, NUMPY_TYPES[tensor.datatype])
        outputs[tensor.name] = flat.reshape(shape)
    return outputs


def _spec(tensor: pb.ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape))
