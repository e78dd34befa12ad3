"""Arrays to the tensors of a request, and the tensors of a response to arrays, for every datatype of the protocol.

Input values may be of another dtype where nothing is lost but precision. Outputs are read-only views of the received
bytes. BF16, which numpy lacks, is float32 outside.
"""

from math import prod
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from conveyor_server.core.byte_strings import decode_byte_strings, decode_texts, encode_byte_strings
from conveyor_server.core.errors import InvalidRequest as Malformed
from conveyor_server.core.model import NUMPY_TYPES, Array, TensorSpec
from conveyor_server.core.tensor_contents import TYPED_FIELDS
from conveyor_server.generated import inference_pb2 as pb


class Outputs(dict[str, Array]):
    """The outputs of one inference by name, in the order asked for.

    Attributes:
        model: the name of the model that answered.
        version: its version.
        request_id: the request's.
    """

    __slots__ = ("model", "request_id", "version")

    model: str
    version: str
    request_id: str


def encode(value: ArrayLike, tensor: TensorSpec) -> tuple[tuple[int, ...], memoryview]:
    """Shape and raw contents of an input in the datatype that the model wants; the caller's own memory where it can be.

    Whole numbers may be of any width and sign if every value fits; floating point of any precision is rounded.

    Raises:
        TypeError: values of another kind, for example whole numbers where floating point is wanted.
        ValueError: a value that the datatype cannot hold.
    """
    array = np.asarray(value)
    if tensor.datatype == "BYTES":
        return array.shape, memoryview(encode_byte_strings(array))
    if array.dtype is not tensor.dtype:
        array = _convert(array, tensor)
    data = array.data
    return array.shape, data if data.c_contiguous else memoryview(array.tobytes())


def decode(response: pb.ModelInferResponse) -> Outputs:
    """The outputs of a response, which may be raw, as this server sends them, or typed, as others do.

    Raises:
        ValueError: the response contradicts itself or the protocol.
    """
    tensors, raws = response.outputs, response.raw_output_contents
    if not tensors or len(raws) not in (0, len(tensors)):
        raise ValueError(f"{len(raws)} raw contents came for {len(tensors)} outputs")
    outputs = Outputs()
    outputs.model, outputs.version, outputs.request_id = response.model_name, response.model_version, response.id
    for tensor, raw in zip(tensors, raws or [None] * len(tensors), strict=True):
        shape = tuple(tensor.shape)
        try:
            if -1 in shape:
                raise ValueError("its shape has no size")
            flat = _from_typed(tensor) if raw is None else _from_raw(raw, tensor.datatype, shape)
            outputs[tensor.name] = flat.reshape(shape)
        except (ValueError, OverflowError, Malformed) as error:
            raise ValueError(
                f"output '{tensor.name}' of {tensor.datatype} {list(shape)} cannot be read: {error}"
            ) from error
    return outputs


def _convert(array: Array, tensor: TensorSpec) -> Array:
    wanted = tensor.dtype
    if tensor.datatype == "BF16":
        return _to_bfloat16(array, tensor)
    if array.dtype == wanted:
        return array
    if array.dtype.kind == wanted.kind == "f":
        with np.errstate(over="raise"):
            try:
                return array.astype(wanted)
            except FloatingPointError as error:
                raise ValueError(f"Input '{tensor.name}' has values that {wanted} cannot hold.") from error
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        limits = np.iinfo(cast("np.dtype[np.integer]", wanted))
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            raise ValueError(f"Input '{tensor.name}' wants {wanted}, got values from {array.min()} to {array.max()}.")
        return array.astype(wanted)
    raise _wrong_kind(array, tensor, str(wanted))


def _to_bfloat16(array: Array, tensor: TensorSpec) -> Array:
    """The upper 16 bits of float32, rounded to the nearest, ties to even. uint16 is taken for such bits already."""
    if array.dtype == np.uint16:
        return array
    if array.dtype.name == "bfloat16":  # of the package ml_dtypes, which is not needed for it
        return array.view(np.uint16)
    if array.dtype.kind != "f":
        raise _wrong_kind(array, tensor, "floating point")
    # Half of what is cut off, and one more where the lowest kept bit is odd, carries exactly where it has to.
    bits = array.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16)


def _wrong_kind(array: Array, tensor: TensorSpec, wanted: str) -> TypeError:
    return TypeError(
        f"Input '{tensor.name}' wants {wanted}, got {array.dtype}. Convert the values as the model expects them: "
        "pixels of 0 to 255 are usually divided by 255."
    )


def _from_raw(raw: bytes, datatype: str, shape: tuple[int, ...]) -> Array:
    if datatype == "BYTES":
        return _read_only(decode_byte_strings(raw, "an output", limit=prod(shape)))
    flat = np.frombuffer(raw, _dtype(datatype))
    if datatype == "BF16":
        return _read_only((flat.astype(np.uint32) << 16).view(np.float32))
    return flat


def _from_typed(tensor: pb.ModelInferResponse.InferOutputTensor) -> Array:
    field = TYPED_FIELDS.get(tensor.datatype)
    if field is None:
        raise ValueError("it has no raw contents, and this datatype has no other form")
    values = getattr(tensor.contents, field)
    if tensor.datatype == "BYTES":
        return _read_only(decode_texts(values, "an output"))
    return _read_only(np.array(values, _dtype(tensor.datatype)))


def _read_only(array: Array) -> Array:
    """As a view of received bytes is by itself."""
    array.flags.writeable = False
    return array


def _dtype(datatype: str) -> np.dtype[np.generic]:
    try:
        return NUMPY_TYPES[datatype]
    except KeyError:
        raise ValueError("the datatype is unknown") from None
