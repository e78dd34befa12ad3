"""A stream of responses, to one request or to many, each side held up by the other when it is behind."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import count
from math import inf

from conveyor_server.core.errors import DeadlineExceeded, Draining, InvalidRequest, RequestError
from conveyor_server.wire.h2.calls import H2Call, Link
from conveyor_server.wire.h2.headers import CallHead
from conveyor_server.wire.h2.pacing import MESSAGE_SECONDS
from conveyor_server.wire.rpc import Messages, ServerStream, TwoWayStream

MOST_AT_ONCE = 8
"""Messages that the handler of a stream gets before others have their turn."""
MOST_UNREAD = 64
MOST_UNREAD_BYTES = 2**16
"""Of a stream, that wait for its handler before the client is held up."""


class StreamCall(H2Call):
    """A stream of responses, to one request or to many."""

    __slots__ = (
        "_arrived",
        "_gone",
        "_task",
        "_two_way",
        "_unanswered",
        "_unread",
        "_unread_bytes",
    )

    def __init__(
        self, link: Link, stream_id: int, head: CallHead, now: float, deadline: float, rpc: ServerStream | TwoWayStream
    ) -> None:
        super().__init__(link, stream_id, head, now, deadline, rpc)
        self._unread: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._gone = False
        self._unread_bytes = 0
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
        self._queue(messages)
        if not self._is_behind(MOST_UNREAD, MOST_UNREAD_BYTES) and (self._reader is None or not self._reader.waiting):
            return len(data)
        self.withheld += len(data)
        return 0

    def take_unpacked(self, message: bytes) -> None:
        """Queues a message that had to be unpacked, or one that came after it."""
        self._queue([message])

    def _queue(self, messages: Sequence[bytes]) -> None:
        self._unread.extend(messages)
        self.link.earned -= len(messages) * MESSAGE_SECONDS
        size = sum(map(len, messages))
        self._unread_bytes += size
        self.hold(size)
        self.link.opened += len(messages)
        if self._two_way:
            self._unanswered += len(messages)
            self.link.traffic.begin_on_stream(len(messages))
        self._arrived.set()

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

    def _end_requests(self, ended: int) -> None:
        self._unanswered -= ended
        self.link.traffic.end_on_stream(ended)

    async def _responses(self) -> Messages:
        """The handler's, once there is what it needs."""
        requests = self._requests()
        if isinstance(self.rpc, TwoWayStream):
            responses = self.rpc.open(requests, self)
        else:
            assert isinstance(self.rpc, ServerStream)
            responses = self.rpc.open(await self._only_request(requests))
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
        for turn in count(1):
            while not self._unread:
                if self.ended and (self._reader is None or not self._reader.waiting):
                    return
                self._arrived.clear()
                await self._arrived.wait()
            if turn % MOST_AT_ONCE == 0:
                await asyncio.sleep(0)
            message = self._unread.popleft()
            self._unread_bytes -= len(message)
            self.hold(-len(message))
            if self.withheld and not self._is_behind(MOST_UNREAD // 2, MOST_UNREAD_BYTES // 2):
                self.link.let_in(self, self.withheld)
                self.withheld = 0
            yield message
