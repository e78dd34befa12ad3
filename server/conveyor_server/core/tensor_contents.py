"""The contents of one tensor as a flat array. Knows datatypes and sizes, not models.

Raw contents become views of the received bytes. What the protocol makes unavoidable is copied, value by value: strings
and typed contents. Nothing else is answered meanwhile, so their number is bounded.
"""

import numpy as np

from conveyor_server.core.byte_strings import MAX_STRINGS, decode_byte_strings, decode_texts
from conveyor_server.core.errors import InvalidRequest
from conveyor_server.core.model import NUMPY_TYPES, Array
from conveyor_server.generated import inference_pb2 as pb

TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of `InferTensorContents` for each datatype. FP16 and BF16 have none: they are raw only."""
MAX_TYPED = 2**22
"""Typed numbers of one tensor; each takes 20 ns."""


def read_raw(raw: bytes, datatype: str, size: int, owner: str) -> Array:
    """The values of raw contents: a read-only view, but for BYTES and BOOL.

    Args:
        raw: the contents.
        datatype: a key of `NUMPY_TYPES`.
        size: how many values the shape promises.
        owner: whose they are, for messages: "'x' for model 'm'".

    Raises:
        InvalidRequest: they are not such values, or not so many.
    """
    if datatype == "BYTES":
        _check_number(size, MAX_STRINGS, "strings", owner)
        texts = decode_byte_strings(raw, f"inference input {owner}", limit=size)
        _check_size(len(texts), size, "string elements", owner)
        return texts
    dtype = NUMPY_TYPES[datatype]
    expected = size * dtype.itemsize
    if len(raw) != expected:
        raise InvalidRequest(f"input byte size mismatch for input {owner}. Expected {expected}, got {len(raw)}")
    if datatype == "BOOL":
        # Any byte but 0 is true; numpy itself trusts that only 0 and 1 come.
        return np.frombuffer(raw, np.uint8).astype(np.bool_)
    return np.frombuffer(raw, dtype)


def read_typed(contents: pb.InferTensorContents, datatype: str, size: int, owner: str) -> Array:
    """The values of typed contents. Arguments and errors as those of `read_raw`."""
    fields = [field.name for field, _ in contents.ListFields()]
    expected = TYPED_FIELDS.get(datatype)
    if expected is None:
        raise InvalidRequest(f"input {owner}: {datatype} goes in raw_input_contents")
    if not fields and size > 0:
        raise InvalidRequest(
            f"unable to find data for input tensor {owner} in request: neither raw_input_contents nor contents has any"
        )
    if any(name != expected for name in fields):
        raise InvalidRequest(
            f"unexpected explicit tensor data for input tensor {owner}: {', '.join(fields)} came, {expected} is "
            f"the field of datatype '{datatype}'"
        )
    values = getattr(contents, expected)
    if datatype == "BYTES":
        _check_number(len(values), MAX_STRINGS, "strings", owner)
        _check_size(len(values), size, "string elements", owner)
        return decode_texts(values, f"inference input {owner}")
    _check_number(len(values), MAX_TYPED, "typed values; those in raw_input_contents have no such limit", owner)
    _check_size(len(values), size, "elements", owner)
    try:
        return np.fromiter(values, NUMPY_TYPES[datatype], size)
    except OverflowError as error:
        raise InvalidRequest(f"input {owner} has a value that is not {datatype}: {error}") from error


def _check_number(number: int, most: int, what: str, owner: str) -> None:
    if number > most:
        raise InvalidRequest(f"input {owner} has {number} values; one request may carry at most {most} {what}")


def _check_size(number: int, size: int, what: str, owner: str) -> None:
    if number != size:
        raise InvalidRequest(f"expected {size} {what} for inference input {owner}, got {number}")
