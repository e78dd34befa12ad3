"""Reads the messages of a call that may be compressed. Knows the line in which they wait, not how it moves on."""

from collections import deque

from conveyor_server.wire.h2.calls import H2Call
from conveyor_server.wire.h2.messages import COMPRESSED, PLAIN, PREFIX_BYTES, MessageReader, no_encoding
from conveyor_server.wire.h2.packed_messages import Line
from conveyor_server.wire.h2.unpacking import NotPacked, Unpacking
from conveyor_server.wire.rpc import largest_request


class PackedReader(MessageReader):
    """Gives the messages that can be had at once; the line brings the others to the call.

    Args:
        line: of its connection.
        call: whose messages they are.
        limit: bytes that one message may have as it comes.

    Attributes:
        jobs: what waits in the line, the first one first.
    """

    __slots__ = ("_encoding", "_line", "_packed", "_rpc", "jobs", "stream_id")

    def __init__(self, line: Line, call: H2Call, limit: int) -> None:
        super().__init__(limit)
        self.stream_id = call.stream_id  # the call knows its reader: without the knot, both are gone with the answer
        self.jobs: deque[Unpacking | NotPacked] = deque()
        self._line = line
        self._encoding = call.head.encoding
        self._rpc = call.rpc
        self._packed: list[bool]

    @property
    def waiting(self) -> bool:
        """Whether messages that are whole are still to be unpacked."""
        return bool(self.jobs)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now. Others wait in the line, and so do those that come after them.

        Raises:
            MessageTooLarge, InvalidRequest: as `MessageReader.feed` and `Unpacking.go_on` do.
        """
        if not self.held and (payload := self._whole_packed(data)) is not None:
            return self._unpack(payload)
        self._packed = []
        messages = []
        for payload, packed in zip(super().feed(data), self._packed, strict=True):
            messages += self._unpack(payload) if packed else self._bring(NotPacked(payload), payload)
        return messages

    def take_job(self) -> None:
        """The first message waits no more."""
        self._line.waiting_bytes -= self.jobs.popleft().waiting_bytes

    def drop(self) -> None:
        """What came is of no use any more."""
        super().drop()
        while self.jobs:
            self.take_job()

    def _whole_packed(self, data: bytes) -> bytes | None:
        """What is compressed in a message that is exactly this piece: the common case, as in `whole_message`."""
        if len(data) < PREFIX_BYTES or data[0] != COMPRESSED:
            return None
        length = int.from_bytes(data[1:PREFIX_BYTES])
        if length != len(data) - PREFIX_BYTES or length > self._limit:
            return None
        return data[PREFIX_BYTES:]

    def _unpack(self, payload: bytes) -> list[bytes]:
        job = Unpacking(payload, self._encoding, min(self._limit, largest_request(self._rpc) or self._limit))
        return self._bring(job, None if self.jobs else self._line.try_at_once(job))

    def _bring(self, job: Unpacking | NotPacked, message: bytes | None) -> list[bytes]:
        """The message if it is there and nothing before it waits; else it waits, too."""
        if message is not None and not self.jobs:
            return [message]
        self.jobs.append(job)
        self._line.put(self, job)
        return []

    def _check_flag(self) -> None:
        if self._flag not in (PLAIN, COMPRESSED):
            raise no_encoding(self._flag)
        self._packed.append(self._flag == COMPRESSED)
