"""One request, one response. For RPCs that are answered in place, the call is the reply slot itself."""

import asyncio
from collections.abc import Callable
from math import inf

from google.protobuf.message import Message

from conveyor_server.core.errors import DeadlineExceeded, InvalidRequest, MessageTooLarge, RequestError
from conveyor_server.wire.h2.calls import H2Call, Link
from conveyor_server.wire.h2.headers import CallHead
from conveyor_server.wire.rpc import Immediate, Unary

_PROMPT = 0.001
"""Seconds by which a client's clock may be ahead when it gives a call up at its deadline."""


class UnaryCall(H2Call):
    """One request, one response. For `Immediate` RPCs it is the reply slot itself, and there is no task."""

    __slots__ = ("_message", "_on_cancel", "_running", "_task", "method", "request_id")

    def __init__(
        self, link: Link, stream_id: int, head: CallHead, now: float, deadline: float, rpc: Immediate | Unary
    ) -> None:
        super().__init__(link, stream_id, head, now, deadline, rpc)
        self.method = head.method
        self.request_id = ""
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
            self.unpacked = len(message)
        if not self.ended:
            return len(data)
        self.withheld = len(data)
        self._begin()
        return 0

    def take_unpacked(self, message: bytes) -> None:
        """Begins when this is the one request, and no more can come."""
        if self._message is not None:
            raise InvalidRequest("A unary call has one request message; another one came.")
        self._message = message
        self.unpacked = len(message)
        if self.ended:
            self._begin()

    def _begin(self) -> None:
        message, self._message = self._message, None
        if message is None or self.held:
            if self._reader is not None and self._reader.waiting:
                self._message = message
                return
            raise InvalidRequest("The call ended before its request message did.")
        self._running = True
        self.link.traffic.begin()
        rpc = self.rpc
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
            self.link.admission.was_answered()
            try:
                self.link.respond(self, self._framed(response))
            except MessageTooLarge as error:
                self.link.refuse(self, error)

    def fail(self, error: RequestError) -> None:
        """Sends the error's code and text."""
        if self._settle():
            if type(error) is DeadlineExceeded:
                self.link.admission.was_late()
            self.link.refuse(self, error)

    def when_cancelled(self, action: Callable[[], None]) -> None:
        """Has `action` called if the client gives up."""
        self._on_cancel = action

    def cancel(self) -> None:
        """The client has gone."""
        if self._running:
            on_cancel = self._on_cancel
            self._settle()
            if self.link.loop.time() >= self.deadline - _PROMPT:
                self.link.admission.was_late()
            if self._task is not None:
                self._task.cancel()
            if on_cancel is not None:
                on_cancel()

    def _settle(self) -> bool:
        """Whether it is this that ends the handler's work."""
        if not self._running:
            return False
        self._running = False
        self._on_cancel = None  # it knows this call: without the knot, both are gone when the answer is
        self.link.traffic.end()
        return True
