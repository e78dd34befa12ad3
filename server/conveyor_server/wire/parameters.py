"""The parameters of an inference request that mean something here. Refuses those that must not be misread.

Parameters of other names are accepted and ignored, as the protocol wants it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from conveyor_server.core.classification import CLASSIFIED, classify
from conveyor_server.core.errors import InvalidRequest
from conveyor_server.core.model import Array, ModelSpec
from conveyor_server.generated import inference_pb2 as pb

_MICROSECONDS = 1e-6
_RESERVED = "triton_"
_ALLOWED = "triton_enable_empty_final_response"
_TYPES = {
    "sequence_id": ("int64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "priority": ("int64_param", "uint64_param"),
    "timeout": ("int64_param",),
    _ALLOWED: ("bool_param",),
}
_ANY_TYPE = ("int64_param", "bool_param", "string_param", "double_param")


class Scheduling(NamedTuple):
    """What a request wishes of the queue."""

    priority: int = 0
    """1 is served first; 0 means the model's default."""
    timeout: float | None = None
    """Seconds that it is willing to wait, where the model's policy lets it say so."""


def read_scheduling(request: pb.ModelInferRequest) -> Scheduling:
    """What the request's parameters say of its place in the queue.

    Raises:
        InvalidRequest: a parameter of the wrong type, below zero, or of a reserved name.
    """
    for name, parameter in request.parameters.items():
        if name.startswith(_RESERVED) and name != _ALLOWED:
            raise InvalidRequest(
                f"parameter keys starting with '{_RESERVED}' are reserved for Triton usage. Only the following keys "
                f"starting with '{_RESERVED}' are allowed: {_ALLOWED}"
            )
        expected = _TYPES.get(name, _ANY_TYPE)
        if parameter.WhichOneof("parameter_choice") not in expected:
            raise InvalidRequest(f"invalid value type for '{name}' parameter, expected {' or '.join(expected)}.")
    priority, timeout = _number(request, "priority"), _number(request, "timeout")
    return Scheduling(priority, timeout * _MICROSECONDS or None)


def read_classification(request: pb.ModelInferRequest, spec: ModelSpec) -> dict[int, int]:
    """How many classes are wanted of which output, by its position in the model.

    Raises:
        InvalidRequest: the count is not one, or the output's datatype has no order.
    """
    counts: dict[int, int] = {}
    for output in request.outputs:
        if "classification" not in output.parameters:
            continue
        parameter = output.parameters["classification"]
        if parameter.WhichOneof("parameter_choice") != "int64_param":
            raise InvalidRequest("invalid value type for 'classification' parameter, expected int64_param")
        if parameter.int64_param <= 0:
            raise InvalidRequest("invalid value for 'classification' parameter, expected >= 0")
        index = spec.output_index[output.name]
        datatype = spec.outputs[index].datatype
        if datatype not in CLASSIFIED:
            raise InvalidRequest(f"class result not available for output due to unsupported type '{datatype}'")
        counts[index] = parameter.int64_param
    return counts


def with_classes(
    outputs: Sequence[Array], counts: Mapping[int, int], spec: ModelSpec, labels: Mapping[str, Sequence[str]]
) -> list[Array]:
    """The outputs of the model, with those in `counts` replaced by their best classes as `str` objects."""
    return [
        classify(output, counts[index], batched=spec.batched, labels=labels.get(spec.outputs[index].name, ()))
        if index in counts
        else output
        for index, output in enumerate(outputs)
    ]


def _number(request: pb.ModelInferRequest, name: str) -> int:
    if name not in request.parameters:
        return 0
    parameter = request.parameters[name]
    value = parameter.uint64_param or parameter.int64_param
    if value < 0:
        raise InvalidRequest(f"invalid value for '{name}', expected value >= 0.")
    return value
