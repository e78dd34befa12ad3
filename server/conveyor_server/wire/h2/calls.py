"""What all calls on an HTTP/2 connection have in common, and what they need of it. Knows no kind of RPC."""

import asyncio
from types import MappingProxyType
from typing import Protocol

from conveyor_server.core.errors import MessageTooLarge, RequestError
from conveyor_server.wire.access import Access
from conveyor_server.wire.call import Metadata
from conveyor_server.wire.h2.admission import Admission
from conveyor_server.wire.h2.headers import CallHead
from conveyor_server.wire.h2.messages import MessageReader, frame, whole_message
from conveyor_server.wire.rpc import Rpc
from conveyor_server.wire.traffic import Traffic

NO_METADATA: Metadata = MappingProxyType({})
LARGE_MESSAGE = 2**18
COMPRESS_FROM_BYTES = 1024
"""Smaller answers are sent as they are, also to clients that compress."""


class Link(Protocol):
    """What a call needs of its connection."""

    loop: asyncio.AbstractEventLoop
    traffic: Traffic
    access: Access | None
    admission: Admission
    max_message_bytes: int
    opened: int
    """Requests so far: calls, and messages on streams."""
    unread: int
    """Bytes of messages that are not whole, or not read by their handlers, of all calls."""
    earned: float
    """Seconds of our time to which its answers entitle the client, less those that its calls take later."""

    def respond(self, call: "H2Call", framed: bytes) -> None:
        """Sends a response that is one message, and ends the call."""

    def refuse(self, call: "H2Call", error: RequestError) -> None:
        """Ends the call with the error's status."""

    async def send(self, call: "H2Call", framed: bytes) -> None:
        """Sends one message of many; returns when there is room for another."""

    def finish(self, call: "H2Call") -> None:
        """Ends a call of many messages with the status OK."""

    def reader_of_packed(self, call: "H2Call") -> MessageReader:
        """Reads messages that may be compressed: the call may get some later, by `take_unpacked`."""

    def expect_large(self) -> None:
        """A large message is coming: lets the client send it faster."""

    def let_in(self, call: "H2Call", count: int) -> None:
        """Lets the client send so many more bytes."""


class H2Call:
    """What unary calls and streams have in common.

    Args:
        link: its connection.
        stream_id: its stream there.
        head: its headers.
        now: when it came, on the event loop's clock.
        deadline: when it is of no use any more, on the same clock.
        rpc: what is called.
    """

    __slots__ = (
        "_reader",
        "answering",
        "deadline",
        "ended",
        "head",
        "held",
        "initial_metadata",
        "link",
        "opened_at",
        "received",
        "rpc",
        "stream_id",
        "trailing_metadata",
        "unpacked",
        "withheld",
    )

    def __init__(self, link: Link, stream_id: int, head: CallHead, now: float, deadline: float, rpc: Rpc) -> None:
        self.link = link
        self.stream_id = stream_id
        self.head = head
        self.opened_at = now
        self.deadline = deadline
        self.rpc = rpc
        self.received = 0
        """Bytes so far, of the client's messages."""
        self.held = 0
        """Those of them that are not whole messages, or not read by the handler."""
        self.withheld = 0
        """Those of them for which the client may not send more until the call has ended."""
        self.unpacked = 0
        """Bytes of a request that is whole, when it is compressed no more."""
        self.ended = False
        """Whether the client has sent all that it will."""
        self.answering = False
        """Whether the headers of the answer have been sent."""
        self.initial_metadata = self.trailing_metadata = NO_METADATA
        self._reader: MessageReader | None = None

    @property
    def caller(self) -> str:
        """The name of the token that it came with."""
        access = self.link.access
        return access.name_of(self.head.authorization) if access else ""

    @property
    def metadata(self) -> Metadata:
        """The client's headers."""
        return self.head.metadata

    def take(self, data: bytes) -> int:
        """Bytes came, or the end did. Returns how many more the client may send for them now.

        Raises:
            RequestError: they are not what the RPC takes. The call is over.
        """
        raise NotImplementedError

    def take_unpacked(self, message: bytes) -> None:
        """A message is there that came compressed, or after such a one. Raises as `take` does."""
        raise NotImplementedError

    def cancel(self) -> None:
        """The client, or the connection, has gone."""
        raise NotImplementedError

    def drop(self) -> None:
        """What came, and is no whole message yet, is of no use any more."""
        if self._reader is not None:
            self._reader.drop()

    def hold(self, count: int) -> None:
        """So many bytes more have come that are not read by the handler, or fewer."""
        self.held += count
        self.link.unread += count

    def _read(self, data: bytes) -> list[bytes]:
        self.received += len(data)
        reader = self._reader
        if reader is None:
            limit = self.link.max_message_bytes
            if self.head.encoding == b"identity":
                whole = whole_message(data, limit)
                if whole is not None:
                    return [whole]
                reader = self._reader = MessageReader(limit)
            else:
                reader = self._reader = self.link.reader_of_packed(self)
        before = reader.held
        messages = reader.feed(data)
        if reader.length > LARGE_MESSAGE:
            self.link.expect_large()
        self.hold(reader.held - before)
        return messages

    def _framed(self, message: bytes) -> bytes:
        if len(message) > (limit := self.link.max_message_bytes):
            raise MessageTooLarge(f"Sent message larger than max ({len(message)} vs. {limit})")
        return frame(message, self.head.encoding) if len(message) >= COMPRESS_FROM_BYTES else frame(message)
