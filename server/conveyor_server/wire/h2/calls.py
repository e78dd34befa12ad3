"""Calls on an HTTP/2 connection, as handlers see them. Know the kinds of RPC; know nothing of frames and sockets."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from math import inf
from types import MappingProxyType
from typing import Protocol

from google.protobuf.message import Message

from conveyor_server.core.errors import DeadlineExceeded, Draining, InvalidRequest, MessageTooLarge, RequestError
from conveyor_server.wire.call import Metadata
from conveyor_server.wire.h2.headers import CallHead
from conveyor_server.wire.h2.messages import MessageReader, frame, whole_message
from conveyor_server.wire.rpc import Immediate, Messages, Rpc, ServerStream, TwoWayStream, Unary
from conveyor_server.wire.traffic import Traffic

NO_METADATA: Metadata = MappingProxyType({})
COMPRESS_FROM_BYTES = 1024
"""Smaller answers are sent as they are, also to clients that compress."""
MOST_UNREAD = 64
MOST_UNREAD_BYTES = 2**18
"""Of a stream, that wait for its handler before the client is held up."""


class Link(Protocol):
    """What a call needs of its connection."""

    loop: asyncio.AbstractEventLoop
    traffic: Traffic
    max_message_bytes: int
    unread: int
    """Bytes of messages that are not whole, or not read by their handlers, of all calls."""

    def respond(self, call: "H2Call", framed: bytes) -> None:
        """Sends a response that is one message, and ends the call."""

    def refuse(self, call: "H2Call", error: RequestError) -> None:
        """Ends the call with the error's status."""

    async def send(self, call: "H2Call", framed: bytes) -> None:
        """Sends one message of many; returns when there is room for another."""

    def finish(self, call: "H2Call") -> None:
        """Ends a call of many messages with the status OK."""

    def let_in(self, call: "H2Call", count: int) -> None:
        """Lets the client send so many more bytes."""


class H2Call:
    """What unary calls and streams have in common."""

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
        "stream_id",
        "trailing_metadata",
    )

    def __init__(self, link: Link, stream_id: int, head: CallHead) -> None:
        self.link = link
        self.stream_id = stream_id
        self.head = head
        self.opened_at = now = link.loop.time()
        self.deadline = inf if head.timeout is None else now + head.timeout
        self.received = 0
        """Bytes so far, of the client's messages."""
        self.held = 0
        """Those of them that are not whole messages, or not read by the handler."""
        self.ended = False
        """Whether the client has sent all that it will."""
        self.answering = False
        """Whether the headers of the answer have been sent."""
        self.initial_metadata = self.trailing_metadata = NO_METADATA
        self._reader: MessageReader | None = None

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

    def cancel(self) -> None:
        """The client, or the connection, has gone."""
        raise NotImplementedError

    def _read(self, data: bytes) -> list[bytes]:
        self.received += len(data)
        reader = self._reader
        if reader is None:
            whole = whole_message(data, self.head.encoding, self.link.max_message_bytes)
            if whole is not None:
                return [whole]
            reader = self._reader = MessageReader(self.head.encoding, self.link.max_message_bytes)
        before = reader.held
        messages = reader.feed(data)
        self._hold(reader.held - before)
        return messages

    def _hold(self, count: int) -> None:
        self.held += count
        self.link.unread += count

    def _framed(self, message: bytes) -> bytes:
        if len(message) > (limit := self.link.max_message_bytes):
            raise MessageTooLarge(f"Sent message larger than max ({len(message)} vs. {limit})")
        return frame(message, self.head.encoding) if len(message) >= COMPRESS_FROM_BYTES else frame(message)


class UnaryCall(H2Call):
    """One request, one response. For `Immediate` RPCs it is the reply slot itself, and there is no task."""

    __slots__ = ("_message", "_on_cancel", "_rpc", "_running", "_task", "method", "request_id")

    def __init__(self, link: Link, stream_id: int, head: CallHead, rpc: Immediate | Unary) -> None:
        super().__init__(link, stream_id, head)
        self.method = head.method
        self.request_id = ""
        self._rpc = rpc
        self._message: bytes | None = None
        self._running = False
        self._on_cancel: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None

    def take(self, data: bytes) -> int:
        """Begins when the one request is there."""
        for message in self._read(data) if data else ():
            if self._message is not None:
                raise InvalidRequest("A unary call has one request message; another one came.")
            self._message = message
        if self.ended:
            self._begin()
        return len(data)

    def _begin(self) -> None:
        message, self._message = self._message, None
        if message is None or self.held:
            raise InvalidRequest("The call ended before its request message did.")
        self._running = True
        self.link.traffic.begin()
        rpc = self._rpc
        if type(rpc) is Immediate:
            rpc.handler(message, self)
        else:
            assert isinstance(rpc, Unary)
            self._task = self.link.loop.create_task(self._run(rpc, message))

    async def _run(self, rpc: Unary, message: bytes) -> None:
        outcome: Message | RequestError
        try:
            async with asyncio.timeout_at(None if self.deadline == inf else self.deadline):
                outcome = await rpc.call(message)
        except TimeoutError:
            outcome = DeadlineExceeded("The deadline passed before the answer was there.")
        if isinstance(outcome, RequestError):
            self.fail(outcome)
        else:
            self.answer(outcome.SerializeToString())

    def answer(self, response: bytes) -> None:
        """Sends the response."""
        if self._settle():
            try:
                self.link.respond(self, self._framed(response))
            except MessageTooLarge as error:
                self.link.refuse(self, error)

    def fail(self, error: RequestError) -> None:
        """Sends the error's code and text."""
        if self._settle():
            self.link.refuse(self, error)

    def when_cancelled(self, action: Callable[[], None]) -> None:
        """Has `action` called if the client gives up."""
        self._on_cancel = action

    def cancel(self) -> None:
        """The client has gone."""
        if self._settle():
            if self._task is not None:
                self._task.cancel()
            if self._on_cancel is not None:
                self._on_cancel()

    def _settle(self) -> bool:
        """Whether it is this that ends the handler's work."""
        if not self._running:
            return False
        self._running = False
        self.link.traffic.end()
        return True


class StreamCall(H2Call):
    """A stream of responses, to one request or to many."""

    __slots__ = (
        "_arrived",
        "_gone",
        "_rpc",
        "_task",
        "_two_way",
        "_unanswered",
        "_unread",
        "_unread_bytes",
        "_withheld",
    )

    def __init__(self, link: Link, stream_id: int, head: CallHead, rpc: ServerStream | TwoWayStream) -> None:
        super().__init__(link, stream_id, head)
        self._rpc = rpc
        self._unread: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._gone = False
        self._unread_bytes = 0
        self._withheld = 0
        """Bytes that the client may send again when the handler has caught up."""
        self._two_way = isinstance(rpc, TwoWayStream)
        self._unanswered = 0
        """Requests that count as in progress. A stream of answers to one request, such as a watch, never does."""
        self._task = link.loop.create_task(self._run(self._responses()))
        # Not in the task itself: one that is cancelled before its first turn never runs.
        self._task.add_done_callback(lambda _: self._end_requests(self._unanswered))

    def take(self, data: bytes) -> int:
        """Queues the messages for the handler, and holds the client up when it is behind."""
        messages = self._read(data) if data else ()
        if self.ended and self._reader is not None and self._reader.held:
            raise InvalidRequest("The call ended in the midst of a message.")
        self._unread.extend(messages)
        size = sum(map(len, messages))
        self._unread_bytes += size
        self._hold(size)
        if self._two_way:
            self._unanswered += len(messages)
            self.link.traffic.begin(len(messages))
        self._arrived.set()
        if not self._is_behind(MOST_UNREAD, MOST_UNREAD_BYTES):
            return len(data)
        self._withheld += len(data)
        return 0

    def _is_behind(self, messages: int, size: int) -> bool:
        """Whether the handler has that many messages, or bytes of them, still to read."""
        return len(self._unread) > messages or self._unread_bytes > size

    def leave(self) -> None:
        """The server stops: ends the stream with a code that clients retry elsewhere."""
        self._task.cancel()

    def cancel(self) -> None:
        """The client has gone."""
        self._gone = True
        self._task.cancel()

    async def _run(self, responses: Messages) -> None:
        try:
            async with asyncio.timeout_at(None if self.deadline == inf else self.deadline), aclosing(responses):
                async for response in responses:
                    await self.link.send(self, self._framed(response.SerializeToString()))
                    if self._two_way:
                        self._end_requests(1)
            self.link.finish(self)
        except RequestError as error:
            self.link.refuse(self, error)
        except TimeoutError:
            self.link.refuse(self, DeadlineExceeded("The deadline passed before the stream had ended."))
        except asyncio.CancelledError:
            if self._gone:
                raise
            self.link.refuse(self, Draining("The server is shutting down."))

    def _end_requests(self, count: int) -> None:
        self._unanswered -= count
        self.link.traffic.end(count)

    async def _responses(self) -> Messages:
        """The handler's, once there is what it needs."""
        requests = self._requests()
        if isinstance(self._rpc, TwoWayStream):
            responses = self._rpc.open(requests, self)
        else:
            responses = self._rpc.open(await self._only_request(requests))
        async with aclosing(requests), aclosing(responses):
            async for response in responses:
                yield response

    async def _only_request(self, requests: AsyncGenerator[bytes, None]) -> bytes:
        only: bytes | None = None
        async for message in requests:
            if only is not None:
                raise InvalidRequest("The call has one request message; another one came.")
            only = message
        if only is None:
            raise InvalidRequest("The call ended before its request message did.")
        return only

    async def _requests(self) -> AsyncGenerator[bytes, None]:
        while True:
            while not self._unread:
                if self.ended:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            message = self._unread.popleft()
            self._unread_bytes -= len(message)
            self._hold(-len(message))
            if self._withheld and not self._is_behind(MOST_UNREAD // 2, MOST_UNREAD_BYTES // 2):
                self.link.let_in(self, self._withheld)
                self._withheld = 0
            yield message


def open_call(link: Link, stream_id: int, head: CallHead, rpc: Rpc) -> H2Call:
    """The call of one kind of RPC."""
    return _KINDS[type(rpc)](link, stream_id, head, rpc)


_KINDS: dict[type[Rpc], Callable[..., H2Call]] = {
    Immediate: UnaryCall,
    Unary: UnaryCall,
    ServerStream: StreamCall,
    TwoWayStream: StreamCall,
}
