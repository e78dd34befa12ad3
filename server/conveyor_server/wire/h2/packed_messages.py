"""Compressed messages of all connections take turns to be unpacked, so that a large one keeps nobody waiting.

What is small is there at once. Of each connection one message is unpacked at a time, a piece in each turn of the event
loop, and what that takes is charged to the connection, which begins no other while it owes. No I/O, no frames.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from time import perf_counter, thread_time
from typing import Protocol

from conveyor_server.core.errors import RequestError
from conveyor_server.wire.h2.calls import H2Call, Link
from conveyor_server.wire.h2.unpacking import NotPacked, Unpacking

TURN_SECONDS = 0.0001
"""What is unpacked in a turn of the event loop takes about so long, at least a piece."""
AT_ONCE_SECONDS = 0.0005
"""In a turn, messages that have just come may take so long. Further ones wait for the next."""
MOST_WAITING_BYTES = 2**20
"""Of a connection's messages that wait, above which no more is read of it."""


class Gate(Protocol):
    """What reads a connection."""

    def settle(self) -> None:
        """A message was unpacked: what that took is to be paid now."""

    def hold_up(self) -> None:
        """Nothing more is to be read, for too much waits."""

    def let_on(self) -> None:
        """There is room again."""


class Owner(Link, Protocol):
    """The connection whose messages they are."""

    @property
    def calls(self) -> Mapping[int, H2Call]:
        """Open ones, by stream."""

    def bound(self, call: H2Call) -> None:
        """Gives the call up if the connection holds too much."""

    def give_up(self, call: H2Call, error: RequestError) -> None:
        """Refuses a call that may be waiting for more."""

    def look_soon(self) -> None:
        """What is held has changed, and there may be something to send."""


class Source(Protocol):
    """A call's messages that wait."""

    stream_id: int
    jobs: deque[Unpacking | NotPacked]
    """The first one first; none if the call was given up."""

    def take_job(self) -> None:
        """The first message waits no more."""


class Unpacker:
    """Has lines take turns. One for all connections of a transport."""

    __slots__ = ("_left", "_lines", "_turn_comes")

    def __init__(self) -> None:
        self._left = AT_ONCE_SECONDS
        self._lines: deque[Line] = deque()
        self._turn_comes = False

    def try_at_once(self, unpacking: Unpacking, loop: asyncio.AbstractEventLoop) -> bytes | None:
        """The message, if this turn has time for it and that is enough. Raises as `Unpacking.go_on` does."""
        if self._left <= 0:
            return None
        self._expect_turn(loop)
        began = perf_counter()
        try:
            return unpacking.go_on(began + self._left)
        finally:
            self._left -= perf_counter() - began

    def add(self, line: "Line", loop: asyncio.AbstractEventLoop) -> None:
        """A line wants its turn."""
        self._lines.append(line)
        self._expect_turn(loop)

    def _expect_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._turn_comes:
            self._turn_comes = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turn_comes = False
        self._left = AT_ONCE_SECONDS
        lines = self._lines
        if not lines:
            return
        self._expect_turn(loop)
        until = perf_counter() + TURN_SECONDS
        for _ in range(len(lines)):
            line, wants_more = lines.popleft(), True
            try:
                wants_more = line.take_turn(until)
            finally:  # a bug in a handler is one call's
                if wants_more:
                    lines.append(line)
            if perf_counter() >= until:
                return


class Line:
    """The messages of one connection that wait to be unpacked, in the order in which they came.

    Args:
        unpacker: gives turns.
        owner: the connection whose messages they are.

    Attributes:
        gate: what reads the connection, if anything does.
        paused: whether it owes, so that no other message is begun.
        waiting_bytes: what its messages take that wait.
    """

    __slots__ = ("_full", "_has_turn", "_owner", "_sources", "_unpacker", "gate", "paused", "waiting_bytes")

    def __init__(self, unpacker: Unpacker, owner: Owner) -> None:
        self._unpacker = unpacker
        self._owner = owner
        self.gate: Gate | None = None
        self.paused = False
        self.waiting_bytes = 0
        self._sources: deque[Source] = deque()
        self._full = self._has_turn = False

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read."""
        return self._full

    def try_at_once(self, job: Unpacking) -> bytes | None:
        """The message, if none waits before it and the turn has time for it. Raises as `Unpacking.go_on` does."""
        return None if self._sources else self._unpacker.try_at_once(job, self._owner.loop)

    def put(self, source: Source, job: Unpacking | NotPacked) -> None:
        """A message of this source waits."""
        self._sources.append(source)
        self.waiting_bytes += job.waiting_bytes
        self._owner.calls[source.stream_id].hold(job.held)
        if self.waiting_bytes > MOST_WAITING_BYTES and not self._full:
            self._full = True
            if self.gate is not None:
                self.gate.hold_up()
        self._ask_for_turn()

    def go_on(self) -> None:
        """The connection owes no more."""
        self.paused = False
        if self._sources:
            self._ask_for_turn()

    def clear(self) -> None:
        """The connection has gone."""
        self._sources.clear()

    def take_turn(self, until: float) -> bool:
        """Unpacks until that time of `perf_counter`, at least a piece. Returns whether it wants another turn."""
        began = thread_time()
        while self._may_go_on() and self._step(until):
            began = self._charge(began)
            if self.gate is not None:
                self.gate.settle()
            if perf_counter() >= until:
                break
        self._charge(began)
        if self._full and self.waiting_bytes <= MOST_WAITING_BYTES // 2:
            self._full = False
            if self.gate is not None:
                self.gate.let_on()
        self._owner.look_soon()
        self._has_turn = self._may_go_on()
        return self._has_turn

    def _may_go_on(self) -> bool:
        while self._sources and not self._sources[0].jobs:
            self._sources.popleft()  # it was given up
        if not self._sources:
            return False
        return not self.paused or self._sources[0].jobs[0].begun

    def _step(self, until: float) -> bool:
        """Whether that was the last of a message."""
        source, owner = self._sources[0], self._owner
        call, job = owner.calls[source.stream_id], source.jobs[0]
        before = job.held
        try:
            message = job.go_on(until)
            if message is None:
                call.hold(job.held - before)
                owner.bound(call)
                return False
            self._sources.popleft()
            source.take_job()
            call.hold(-before)
            call.take_unpacked(message)
        except RequestError as error:
            owner.give_up(call, error)
        return True

    def _charge(self, began: float) -> float:
        now = thread_time()
        self._owner.earned -= now - began
        return now

    def _ask_for_turn(self) -> None:
        if not self._has_turn:
            self._has_turn = True
            self._unpacker.add(self, self._owner.loop)
