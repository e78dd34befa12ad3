"""One compressed message, unpacked a piece at a time. Knows no calls, and no clock but that of its own work."""

import io
import zlib
from time import perf_counter

from conveyor_server.core.errors import InvalidRequest, MessageTooLarge
from conveyor_server.wire.h2.messages import WINDOW_BITS

INPUT_STEP, OUTPUT_STEP = 2**12, 2**16
"""Bytes of a piece, whichever is there first: zeros take 0.15 ms for as much output. The worst that can be made of as
much input takes as long: blocks that bring nothing but tables."""
WAITING_BYTES = 300
"""What a message takes that waits, apart from its own bytes: it may have none."""
STATE_BYTES = 40_000
"""What zlib takes while it unpacks a message, for the most part its window."""


class Unpacking:
    """A message that is being unpacked.

    Its pieces are written into one buffer that grows, which is the message in the end: to join those of a large one
    would take as long as dozens of pieces.

    Args:
        payload: it as it came.
        encoding: `gzip` or `deflate`.
        limit: bytes that may come out.
    """

    __slots__ = ("_encoding", "_limit", "_message", "_payload", "_position", "_rest", "_size", "_stream")

    def __init__(self, payload: bytes, encoding: bytes, limit: int) -> None:
        self._payload = payload
        self._encoding = encoding
        self._limit = limit
        self._position = self._size = 0
        self._rest = b""
        self._message: io.BytesIO | None = None
        self._stream: zlib._Decompress | None = None

    @property
    def waiting_bytes(self) -> int:
        """What it takes until it is begun."""
        return len(self._payload) + WAITING_BYTES

    @property
    def begun(self) -> bool:
        """Whether a piece has been unpacked."""
        return self._stream is not None

    @property
    def held(self) -> int:
        """Bytes that it takes now: what came, and what has come out."""
        return self.waiting_bytes + (self._size + STATE_BYTES if self._stream else 0)

    def go_on(self, until: float) -> bytes | None:
        """Unpacks a piece, and further ones until that time of `perf_counter`. Returns the message when it is whole.

        Raises:
            MessageTooLarge: more comes out than may.
            InvalidRequest: it is not what the encoding says.
        """
        stream = self._stream
        if stream is None:
            stream = self._stream = zlib.decompressobj(WINDOW_BITS[self._encoding])
        while True:
            rest = self._rest
            if not rest:
                rest = self._payload[self._position : self._position + INPUT_STEP]
                self._position += INPUT_STEP
            most = min(OUTPUT_STEP, self._limit + 1 - self._size)
            try:
                piece = stream.decompress(rest, most)
            except zlib.error as error:
                raise self._invalid(str(error)) from error
            self._rest = stream.unconsumed_tail
            self._size += len(piece)
            if self._size > self._limit:
                raise MessageTooLarge(f"Decompressed message larger than max ({self._limit})")
            if stream.eof:
                return self._finish(piece)
            if not self._rest and len(piece) < most and self._position >= len(self._payload):
                raise self._invalid("it ends too early")
            if self._message is None:
                self._message = io.BytesIO()
            self._message.write(piece)
            if perf_counter() >= until:
                return None

    def _finish(self, piece: bytes) -> bytes:
        if self._message is None:
            return piece
        self._message.write(piece)
        return self._message.getvalue()

    def _invalid(self, why: str) -> InvalidRequest:
        return InvalidRequest(f"a message is not valid {self._encoding.decode()}: {why}")


class NotPacked:
    """A message that only waits for those before it, with the face of one that is being unpacked."""

    __slots__ = ("_message", "held", "waiting_bytes")
    begun = False

    def __init__(self, message: bytes) -> None:
        self._message = message
        self.held = self.waiting_bytes = len(message) + WAITING_BYTES

    def go_on(self, until: float) -> bytes:
        """The message."""
        return self._message
