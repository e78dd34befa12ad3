"""The raw form of BYTES tensors: for each element a 4-byte little-endian length, then the bytes.

The protocol's text leaves the form open; this is what its clients send and expect.
"""

import numpy as np

from conveyor_server.core.errors import InvalidRequest

_LENGTH_BYTES = 4


def decode_byte_strings(raw: bytes, name: str, *, limit: int) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """The elements of a raw BYTES tensor as `str` objects, flat.

    Args:
        raw: the tensor's raw contents.
        name: the input's name, for messages.
        limit: the number of elements that the shape promises; a longer tensor is not read to its end.

    Raises:
        InvalidRequest: truncated, longer than `limit` elements, or not UTF-8.
    """
    values: list[str] = []
    position = 0
    while position < len(raw):
        start = position + _LENGTH_BYTES
        if start > len(raw):
            raise InvalidRequest(f"incomplete string length indicator for input '{name}' after {len(values)} elements")
        position = start + int.from_bytes(raw[position:start], "little")
        if position > len(raw):
            raise InvalidRequest(f"incomplete string data for input '{name}' in element {len(values)}")
        if len(values) == limit:
            raise InvalidRequest(f"unexpected number of string elements for input '{name}'. Expected {limit}, got more")
        try:
            values.append(raw[start:position].decode())
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"element {len(values)} of input '{name}' is not UTF-8: {error}") from error
    result = np.empty(len(values), np.object_)
    result[:] = values
    return result


def encode_byte_strings(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    """The raw form of an array of `str` or `bytes` objects, in row-major order."""
    pieces: list[bytes] = []
    for value in array.reshape(-1).tolist():
        data = value if isinstance(value, bytes) else str(value).encode()
        pieces += (len(data).to_bytes(_LENGTH_BYTES, "little"), data)
    return b"".join(pieces)
