"""gRPC's messages in a stream of bytes: a flag, a length, the bytes. No I/O.

The form is that of gRPC's PROTOCOL-HTTP2.md ("Length-Prefixed-Message").
"""

import zlib
from struct import Struct

from conveyor_server.core.errors import InvalidRequest, MessageTooLarge

_PREFIX = Struct(">BI")
PREFIX_BYTES = _PREFIX.size
PLAIN, COMPRESSED = 0, 1
WINDOW_BITS = {b"gzip": 31, b"deflate": 15}  # deflate means zlib's form here, as in HTTP
_FASTEST = 1
_MOST_PIECES, _SMALL_PIECE = 128, 1024


def whole_message(data: bytes, limit: int) -> bytes | None:
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
    if flag != PLAIN:
        raise no_encoding(flag)
    return data[PREFIX_BYTES:]


class MessageReader:
    """Gives whole messages of the pieces in which they come. None may be compressed.

    Args:
        limit: bytes that one message may have as it comes.
    """

    __slots__ = ("_flag", "_limit", "_pieces", "_prefix", "held", "length")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._prefix = b""
        self._flag = self.length = 0
        """Of the message that is coming, or came last, once its prefix is there."""
        self._pieces: list[bytes] = []
        self.held = 0
        """Bytes of a message that is not whole yet."""

    @property
    def waiting(self) -> bool:
        """Whether messages that are whole are still to be unpacked."""
        return False

    def drop(self) -> None:
        """What came is of no use any more."""
        self._pieces.clear()

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
        self._check_flag()
        return payload

    def _check_flag(self) -> None:
        if self._flag != PLAIN:
            raise no_encoding(self._flag)


def no_encoding(flag: int) -> InvalidRequest:
    """The error that a message's flag is not one that the call's headers allow."""
    return InvalidRequest(f"a message has the compression flag {flag}, and the call's headers name no encoding")


def _check_length(length: int, limit: int) -> None:
    if length > limit:
        raise MessageTooLarge(f"Received message larger than max ({length} vs. {limit})")


def frame(message: bytes, encoding: bytes = b"identity") -> bytes:
    """A message as it goes into the stream, compressed if the encoding says so."""
    bits = WINDOW_BITS.get(encoding)
    if bits is None:
        return _PREFIX.pack(PLAIN, len(message)) + message
    stream = zlib.compressobj(_FASTEST, zlib.DEFLATED, bits)
    payload = stream.compress(message) + stream.flush()
    return _PREFIX.pack(COMPRESSED, len(payload)) + payload
