"""gRPC's messages in a stream of bytes: a flag, a length, the bytes, possibly compressed. No I/O.

The form is that of gRPC's PROTOCOL-HTTP2.md ("Length-Prefixed-Message").
"""

import zlib
from struct import Struct

from conveyor_server.core.errors import InvalidRequest, MessageTooLarge

_PREFIX = Struct(">BI")
PREFIX_BYTES = _PREFIX.size
_PLAIN, _COMPRESSED = 0, 1
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}  # deflate means zlib's form here, as in HTTP
_FASTEST = 1
_MOST_PIECES, _SMALL_PIECE = 128, 1024


def whole_message(data: bytes, encoding: bytes, limit: int, unpacked_limit: int) -> bytes | None:
    """The message that is exactly this piece, or None. The common case: it spares the pieces a buffer.

    Raises:
        MessageTooLarge, InvalidRequest: as `MessageReader.feed` does.
    """
    if len(data) < PREFIX_BYTES:
        return None
    flag, length = _PREFIX.unpack_from(data)
    if length != len(data) - PREFIX_BYTES:
        return None
    _check_length(length, limit)
    payload = data[PREFIX_BYTES:]
    return payload if flag == _PLAIN else _decode(flag, payload, encoding, unpacked_limit)


class MessageReader:
    """Gives whole messages of the pieces in which they come.

    Args:
        encoding: how they are compressed, if they are: `identity`, `gzip` or `deflate`.
        limit: bytes that one message may have as it comes.
        unpacked_limit: the same of one that was compressed, when it is so no more.
    """

    __slots__ = ("_encoding", "_flag", "_limit", "_pieces", "_prefix", "_unpacked_limit", "held", "length")

    def __init__(self, encoding: bytes, limit: int, unpacked_limit: int) -> None:
        self._encoding = encoding
        self._limit = limit
        self._unpacked_limit = unpacked_limit
        self._prefix = b""
        self._flag = self.length = 0
        """Of the message that is coming, or came last, once its prefix is there."""
        self._pieces: list[bytes] = []
        self.held = 0
        """Bytes of a message that is not whole yet."""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now.

        Raises:
            MessageTooLarge: one is, or says that it will be.
            InvalidRequest: it is not what the headers said.
        """
        if len(self._prefix) == PREFIX_BYTES and self.held + len(data) < PREFIX_BYTES + self.length:
            self.held += len(data)
            self._pieces.append(data)
            if len(self._pieces) > _MOST_PIECES + self.held // _SMALL_PIECE:
                self._pieces = [b"".join(self._pieces)]  # many tiny ones take more memory than they bring
            return []
        messages: list[bytes] = []
        start = 0
        while start < len(data):
            if len(self._prefix) < PREFIX_BYTES:
                start += self._take_prefix(data, start)
                if len(self._prefix) < PREFIX_BYTES:
                    break
            piece = data[start : start + PREFIX_BYTES + self.length - self.held]
            start += len(piece)
            self.held += len(piece)
            self._pieces.append(piece)
            if self.held == PREFIX_BYTES + self.length:
                messages.append(self._finish())
        return messages

    def _take_prefix(self, data: bytes, start: int) -> int:
        """Takes bytes of the prefix; returns how many."""
        part = data[start : start + PREFIX_BYTES - len(self._prefix)]
        self._prefix += part
        self.held += len(part)
        if len(self._prefix) == PREFIX_BYTES:
            self._flag, self.length = _PREFIX.unpack(self._prefix)
            _check_length(self.length, self._limit)
        return len(part)

    def _finish(self) -> bytes:
        payload = b"".join(self._pieces)
        self._prefix, self._pieces, self.held = b"", [], 0
        return payload if self._flag == _PLAIN else _decode(self._flag, payload, self._encoding, self._unpacked_limit)


def _check_length(length: int, limit: int) -> None:
    if length > limit:
        raise MessageTooLarge(f"Received message larger than max ({length} vs. {limit})")


def _decode(flag: int, payload: bytes, encoding: bytes, limit: int) -> bytes:
    bits = _WINDOW_BITS.get(encoding)
    if flag != _COMPRESSED or bits is None:
        raise InvalidRequest(f"a message has the compression flag {flag}, and the call's headers name no encoding")
    stream = zlib.decompressobj(bits)
    try:
        message = stream.decompress(payload, limit + 1)
    except zlib.error as error:
        raise InvalidRequest(f"a message is not valid {encoding.decode()}: {error}") from error
    if len(message) > limit:
        raise MessageTooLarge(f"Decompressed message larger than max ({limit})")
    if not stream.eof:
        raise InvalidRequest(f"a message is not valid {encoding.decode()}: it ends too early")
    return message


def frame(message: bytes, encoding: bytes = b"identity") -> bytes:
    """A message as it goes into the stream, compressed if the encoding says so."""
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        return _PREFIX.pack(_PLAIN, len(message)) + message
    stream = zlib.compressobj(_FASTEST, zlib.DEFLATED, bits)
    payload = stream.compress(message) + stream.flush()
    return _PREFIX.pack(_COMPRESSED, len(payload)) + payload
