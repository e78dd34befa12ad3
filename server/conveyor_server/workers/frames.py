"""What a supervisor and a worker say to each other, as bytes: notices, questions and their answers. No I/O.

Pickled, as Python's own multiprocessing does it: both ends are this program, and nobody else has the socket.
"""

import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_SIZE = struct.Struct("!I")
MAX_BYTES = 2**30


class Kind(IntEnum):
    """What is expected of the other side."""

    NOTICE = 0
    """Nothing."""
    QUESTION = 1
    """An answer with the same number."""
    ANSWER = 2
    """A RequestError, if the question could not be answered."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One saying."""

    kind: Kind
    topic: str
    body: object = None
    number: int = 0
    """Of a question, and of what is said to it."""
    has_descriptor: bool = False
    """Whether an open file goes with it, beside the bytes."""

    def encode(self) -> bytes:
        """Its bytes."""
        data = pickle.dumps(self, pickle.HIGHEST_PROTOCOL)
        return _SIZE.pack(len(data)) + data


class FrameBroken(Exception):
    """The bytes are no frames. Both ends are ours, so this is a bug."""


class FrameReader:
    """Makes frames of bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now. Take all of them before the next piece.

        Raises:
            FrameBroken: what came can never become a frame.
        """
        self._buffer += data
        while len(self._buffer) >= _SIZE.size:
            (size,) = _SIZE.unpack_from(self._buffer)
            if size > MAX_BYTES:
                raise FrameBroken(f"A frame of {size} bytes.")
            if len(self._buffer) < (end := _SIZE.size + size):
                return
            try:
                frame = pickle.loads(self._buffer[_SIZE.size : end])
            except Exception as error:
                raise FrameBroken("A frame that cannot be read.") from error
            if not isinstance(frame, Frame):
                raise FrameBroken(f"A {type(frame).__name__} in the place of a frame.")
            del self._buffer[:end]
            yield frame
