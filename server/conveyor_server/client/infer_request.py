"""An inference as the bytes of its message. What is the same from call to call is serialised once and remembered.

The serialisation of a protobuf message is the concatenation of those of its parts, in any order (protobuf's encoding
guide, "last one wins" and "repeated fields"). So the tensors are copied once, from the caller's arrays to the message.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from conveyor_server.core.varint import varint
from conveyor_server.generated import inference_pb2 as pb

Parameter = bool | int | float | str

_RAW_INPUT_CONTENTS = bytes(((7 << 3) | 2,))
"""The tag of field 7, whose value has a length."""
_PARAMETER_FIELDS: dict[type, str] = {
    bool: "bool_param",
    int: "int64_param",
    float: "double_param",
    str: "string_param",
}


class Wish(NamedTuple):
    """What a call wants besides its inputs. Calls with the same wish may share a request."""

    model: str
    version: str = ""
    outputs: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str, Parameter], ...] = ()
    """Name, field of `InferParameter`, and value: 1 and True are equal, and yet not the same."""


class TensorHead(NamedTuple):
    """What a request says of an input besides its values."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def read_parameters(parameters: Mapping[str, Parameter]) -> tuple[tuple[str, str, Parameter], ...]:
    """The parameters of a request in their order for a `Wish`.

    Raises:
        TypeError: a value of a type that the protocol has no field for.
    """
    for name, value in parameters.items():
        if type(value) not in _PARAMETER_FIELDS:
            raise TypeError(f"The parameter '{name}' is {type(value).__name__}, expected bool, int, float or str.")
    return tuple((name, _PARAMETER_FIELDS[type(value)], value) for name, value in sorted(parameters.items()))


def compose(wish: Wish, tensors: tuple[TensorHead, ...], contents: Sequence[memoryview], request_id: str = "") -> bytes:
    """A serialised `ModelInferRequest`.

    Args:
        wish: what is asked for.
        tensors: the inputs.
        contents: the raw contents of each input.
        request_id: the caller's name for the request.
    """
    head, prefixes = _parts(wish, tensors, tuple([content.nbytes for content in contents]))
    parts: list[bytes | memoryview] = [head]
    for prefix, content in zip(prefixes, contents, strict=True):
        parts += (prefix, content)
    if request_id:
        parts.append(pb.ModelInferRequest(id=request_id).SerializeToString())
    return b"".join(parts)


@lru_cache(maxsize=256)
def _parts(wish: Wish, tensors: tuple[TensorHead, ...], sizes: tuple[int, ...]) -> tuple[bytes, list[bytes]]:
    """Everything but the contents, and what goes before the contents of each input: tag and length."""
    request = pb.ModelInferRequest(model_name=wish.model, model_version=wish.version)
    for name, datatype, shape in tensors:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in wish.outputs:
        request.outputs.add(name=name)
    for name, field, value in wish.parameters:
        setattr(request.parameters[name], field, value)
    return request.SerializeToString(), [_RAW_INPUT_CONTENTS + varint(size) for size in sizes]
