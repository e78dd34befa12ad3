"""The raw form of BYTES tensors: for each element a 4-byte little-endian length, then the bytes.

The protocol's text leaves the form open; this is what its clients send and expect.
"""

from collections.abc import Iterable
from struct import Struct

import numpy as np

from conveyor_server.core.errors import InvalidRequest

MAX_STRINGS = 2**17
"""Elements of one tensor that are taken or made for a client. Each is a Python object, half a microsecond in which
nothing else is answered."""
_LENGTH = Struct("<I")
_LENGTH_BYTES = _LENGTH.size


def decode_byte_strings(raw: bytes, owner: str, *, limit: int) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """The elements of a raw BYTES tensor as `str` objects, flat.

    Args:
        raw: the tensor's raw contents.
        owner: whose they are, for messages: "inference input 'x' for model 'm'".
        limit: the number of elements that the shape promises; a longer tensor is not read to its end.

    Raises:
        InvalidRequest: truncated, longer than `limit` elements, or not UTF-8.
    """
    pieces: list[bytes] = []
    length_at = _LENGTH.unpack_from
    position, size = 0, len(raw)
    while position < size:
        start = position + _LENGTH_BYTES
        if start > size:
            raise InvalidRequest(f"incomplete string length indicator for {owner} after {len(pieces)} elements")
        position = start + length_at(raw, position)[0]
        if position > size:
            raise InvalidRequest(f"incomplete string data for {owner} in element {len(pieces)}")
        if len(pieces) == limit:
            raise InvalidRequest(f"unexpected number of string elements {limit + 1} for {owner}, expecting {limit}")
        pieces.append(raw[start:position])
    return decode_texts(pieces, owner)


def decode_texts(pieces: Iterable[bytes], owner: str) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """UTF-8 texts as `str` objects.

    Raises:
        InvalidRequest: one is not UTF-8.
    """
    texts: list[str] = []
    try:
        texts.extend(map(bytes.decode, pieces))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"element {len(texts)} of {owner} is not UTF-8: {error}") from error
    result = np.empty(len(texts), np.object_)
    result[:] = texts
    return result


def encode_byte_strings(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    """The raw form of an array of `str` or `bytes` objects, in row-major order."""
    pack = _LENGTH.pack
    pieces = [value if type(value) is bytes else str(value).encode() for value in array.reshape(-1).tolist()]
    return b"".join([pack(len(piece)) + piece for piece in pieces])
