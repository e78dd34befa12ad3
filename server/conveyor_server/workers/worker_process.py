"""A worker as its supervisor knows it: the process, the channel to it, and what it has told."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from conveyor_server.workers.channel import Answerer, Channel, OtherGone
from conveyor_server.workers.metric_pages import Page
from conveyor_server.workers.sayings import Briefing, Change, State, Topic

log = logging.getLogger(__name__)

_KEPT_FROM_WORKERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Terminals and service managers send these to all processes of a server. What they mean is the supervisor's to say."""
_ASK_SECONDS = 1.0
SILENT_SECONDS = 5.0
"""Who has not answered for so long gets no connections, and does not count as ready."""
HUNG_SECONDS = 60.0
"""Who has not answered for so long is killed. As long as a liveness probe waits for a server of one process."""
_PAGE_SECONDS = 2.0
_REAP_SECONDS = 10.0
"""How long a process may take to end that has closed its channel."""


@dataclass(frozen=True)
class Surroundings:
    """What all workers of a supervisor have in common."""

    briefing: Callable[[], Briefing]
    answerers: Mapping[str, Answerer]
    """Who answers what a worker asks."""
    changed: "Callable[[WorkerProcess], None]"
    """Called when a worker has told something that decides about connections or readiness."""


class WorkerProcess:
    """One worker process, from its start to its end. Create it in a running event loop.

    Args:
        number: the worker's; its successors have the same.
        surroundings: what it is born into.

    Attributes:
        up: whether it got so far that it could take connections; no model may be loaded yet.
        told_to_load: whether it got the order, and with it the changes that clients had made until then.
        state: how far it is.
        leaving: whether it was told to end.
        connections: how many it was handed, and has neither told the end of nor been told to send away.
        failure: why it cannot start, once it has said so.
        page: its last metrics.

    Raises:
        OSError: the system starts no more processes.
    """

    def __init__(self, number: int, surroundings: Surroundings) -> None:
        self.number = number
        self.up = self.told_to_load = self.leaving = self.is_silent = self._gone = False
        self._told_verdict: bool | None = None
        self.state = State()
        self.connections = self._parting = 0
        self.failure = ""
        self.page: Page = {}
        self._changed = surroundings.changed
        self._loop = asyncio.get_running_loop()
        self._born = self._loop.time()
        self._reaping: asyncio.Task[None] | None = None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _start(number, theirs.fileno())
            except BaseException:
                ours.close()
                raise
        self.pid = self._process.pid
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._channel = Channel(
            ours,
            {
                Topic.UP: lambda *_: self._come_up(),
                Topic.FAILED: lambda body, _: self._fail(body),
                Topic.STATE: lambda body, _: self._take_state(body),
                Topic.ENDED: lambda body, _: self._take_ends(body),
                Topic.PAGE: lambda body, _: self._take_page(body),
            },
            surroundings.answerers,
            self._lost,
        )
        self._channel.tell(Topic.BRIEFING, surroundings.briefing())

    @property
    def answers(self) -> bool:
        """Whether it has a model that answers."""
        return self.state.answers and not self.is_silent

    @property
    def takes_connections(self) -> bool:
        """Whether another connection may be handed to it."""
        return self.up and not (self.leaving or self._gone or self._channel.is_clogged)

    @property
    def lifetime(self) -> float:
        """Seconds since its start."""
        return self._loop.time() - self._born

    def load(self, changes: list[Change]) -> None:
        """Has it load the models, then do these changes."""
        self.told_to_load = True
        self._channel.tell(Topic.LOAD, changes)

    def hand(self, connection: int) -> None:
        """Gives it a connection; the descriptor is no longer this process' own."""
        self.connections += 1
        self._channel.tell(Topic.CONNECTION, descriptor=connection)

    def tell_verdict(self, ready: bool) -> None:
        """Tells it whether the server as a whole is ready, unless it knows already, or cannot hear it yet."""
        if not self.up or ready == self._told_verdict:
            return
        self._told_verdict = ready
        self._channel.tell(Topic.VERDICT, ready)

    def send_away(self, connections: int) -> None:
        """Has so many connections end, and come back to whoever has the fewest."""
        self.connections -= connections
        self._parting += connections
        self._channel.tell(Topic.SEND_AWAY, connections)

    def leave(self, topic: Topic) -> None:
        """Has it finish what it has, and end.

        Args:
            topic: RETIRE, or STOP when the whole server stops.
        """
        self.leaving = True
        self._channel.tell(topic)
        self._changed(self)

    async def ask(self, topic: Topic, body: object = None) -> object:
        """Asks it something.

        Raises:
            RequestError: what it answers instead.
            OtherGone: it has ended.
        """
        return await self._channel.ask(topic, body)

    async def fresh_page(self) -> Page:
        """Its metrics, as they are now; the last ones, when it takes too long to tell."""
        with contextlib.suppress(OtherGone, TimeoutError):
            async with asyncio.timeout(_PAGE_SECONDS):
                self.page = await self._channel.ask(Topic.PAGE)
        return self.page

    async def ended(self) -> int:
        """Returns when the process has ended: its exit code, or the negative number of a signal."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """Ends it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def watch(self) -> None:
        """Asks it again and again whether it lives, and kills it when it has not said so for too long."""
        with contextlib.suppress(OtherGone):
            while True:
                await asyncio.sleep(_ASK_SECONDS)
                asking = asyncio.create_task(self._channel.ask(Topic.LIFE))
                await asyncio.wait({asking}, timeout=SILENT_SECONDS)
                if not asking.done():
                    self._be_silent(True)
                    await asyncio.wait({asking}, timeout=HUNG_SECONDS - SILENT_SECONDS)
                    if not asking.done():
                        log.error("Worker %d has not answered for %g s, and is killed.", self.number, HUNG_SECONDS)
                        self.kill()
                await asking
                self._be_silent(False)

    def _be_silent(self, silent: bool) -> None:
        if silent != self.is_silent:
            self.is_silent = silent
            if silent:
                log.warning("Worker %d has not answered for %g s; it gets no work.", self.number, SILENT_SECONDS)
            self._changed(self)

    def _come_up(self) -> None:
        self.up = True
        self._changed(self)

    def _fail(self, text: str) -> None:
        self.failure = text

    def _take_state(self, state: State) -> None:
        self.state = state
        self._changed(self)

    def _take_ends(self, count: int) -> None:
        parted = min(count, self._parting)
        self._parting -= parted
        self.connections -= count - parted

    def _take_page(self, page: Page) -> None:
        self.page = page

    def _lost(self) -> None:
        self._gone = True
        self.state = State()
        self._reaping = self._loop.create_task(self._reap())
        self._changed(self)

    async def _reap(self) -> None:
        """Waits for the end of the process, which mostly has come already when its channel closes."""
        killing = self._loop.call_later(_REAP_SECONDS, self.kill)
        code = await asyncio.to_thread(self._process.wait)
        killing.cancel()
        self._ended.set_result(code)


def _start(number: int, descriptor: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "conveyor_server.workers", str(number), str(descriptor), str(os.getpid())]
    # The new process inherits what is blocked here, from its first moment on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _KEPT_FROM_WORKERS)
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[descriptor])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
