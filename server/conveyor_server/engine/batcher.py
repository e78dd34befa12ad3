"""Feeds one model: takes entries in, forms a batch whenever a runner is free, hands the rows back.

Knows asyncio and the clock, and leaves what to run to `BatchQueue` and how to run it to the model.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Protocol

from conveyor_server.core.batch import Batch, Entry, Reply
from conveyor_server.core.batch_queue import BatchQueue, QueuePolicy
from conveyor_server.core.errors import Draining, ServerFailed, TooLate
from conveyor_server.core.model import Array
from conveyor_server.core.throughput import Throughput

log = logging.getLogger(__name__)

FEW_ANSWERS = 16
"""So many are sent in the same turn of the event loop in which their run was."""
CAUTION = 1.25
"""So many times longer than estimated an answer may take. Whoever is let in shall be answered in time."""


class Model(Protocol):
    """What the batcher runs. `OnnxModel` is the real one; tests bring a puppet."""

    @property
    def run_size(self) -> int:
        """Rows of a full run."""

    @property
    def rows_per_second(self) -> float:
        """Measured at load, with full runs."""

    @property
    def in_place(self) -> bool:
        """Whether a full run is so short that a hop to another thread would cost more than it saves."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The model's outputs for these inputs; blocks."""


class Observer(Protocol):
    """Who wants to know what the batcher does. Called once a run, never once a request."""

    def ran(self, report: "RunReport") -> None:
        """A run has ended, and its entries have their answers."""


@dataclass(frozen=True)
class RunReport:
    """One run, in seconds."""

    batch: Batch
    waited: Sequence[float]
    """How long each entry of the batch had waited."""
    gather_seconds: float
    run_seconds: float
    scatter_seconds: float
    failed: bool


@dataclass(frozen=True)
class _Outcome:
    """What a runner brings back."""

    outputs: list[Array] | Exception
    gather_seconds: float
    run_seconds: float


class Batcher:
    """The queue of one model and the runners that empty it.

    All methods are called in the event loop's thread. A batch forms when a runner is free, never because a timer rang,
    unless a delay was asked for.

    Args:
        model: what to run.
        policy: what may wait for it.
        observer: is told of each run.
        runners: how many runs there may be at a time.
        mixed: as in `BatchQueue`.
        clock: seconds; the event loop's, if none is given.
    """

    def __init__(
        self,
        model: Model,
        policy: QueuePolicy,
        observer: Observer,
        *,
        runners: int = 1,
        mixed: bool = True,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self._model = model
        self._observer = observer
        self._queue = BatchQueue(model.run_size, policy, mixed=mixed)
        self._throughput = Throughput(model.rows_per_second, model.run_size)
        self._runners = self._free_runners = runners
        self._threads = None if model.in_place else ThreadPoolExecutor(runners, thread_name_prefix="runner")
        self._running_rows = 0
        self._freed_at = inf
        """Since when a runner has been free although rows wait."""
        self._dispatch_at: asyncio.Handle | None = None
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a runner."""
        return self._queue.rows

    def submit(
        self,
        inputs: tuple[Array, ...],
        rows: int,
        deadline: float,
        reply: Reply,
        priority: int = 0,
        timeout: float | None = None,
    ) -> Entry:
        """Queues one request and returns at once; `reply` gets the outputs or the error later.

        Args:
            inputs: one array for each input of the model, `[rows, …]`.
            rows: how many.
            deadline: on the event loop's clock, in seconds; `math.inf` for none.
            reply: where the answer goes.
            priority: 1 is served first; 0 means the model's default.
            timeout: seconds that the request is willing to wait, where the model's policy lets it say so.

        Raises:
            Draining: the model is being taken out of service.
            Overloaded: the queue is full.
            TooLate: the work ahead makes the deadline impossible.
        """
        if self._draining:
            raise Draining("The server is shutting down and has stopped accepting new requests.")
        now = self._clock()
        ahead = self._queue.rows + self._running_rows
        # Nothing ahead: the estimate may be stale, and a run costs no one else anything.
        if ahead and now + (needed := CAUTION * self._throughput.seconds_for(ahead + rows) / self._runners) > deadline:
            raise TooLate(
                f"The deadline cannot be met: the answer may take {needed * 1000:.0f} ms, and "
                f"{max(0.0, deadline - now) * 1000:.0f} ms are left. Retry on another replica."
            )
        entry = Entry(inputs, rows, reply, deadline, now, priority)
        self._queue.push(entry, timeout)
        self._idle.clear()
        self._dispatch_soon()
        return entry

    def discard(self, entry: Entry) -> None:
        """The client gave the request up: it leaves the queue at once."""
        self._queue.discard(entry)
        self._settle()

    async def drain(self) -> None:
        """Takes nothing new, and returns when everything accepted has been answered."""
        self._draining = True
        self._queue.hold_nothing_back()  # no one else will come to fill the batch
        self._dispatch_soon()
        await self._idle.wait()

    def close(self) -> None:
        """Frees the runners' threads. Call it after `drain`."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    def _dispatch_soon(self) -> None:
        # Not at once: what arrives in this turn of the loop shares the batch.
        if self._dispatch_at is not None:
            if not isinstance(self._dispatch_at, asyncio.TimerHandle):
                return
            self._dispatch_at.cancel()
        self._dispatch_at = self._loop.call_soon(self._await_company)

    def _await_company(self) -> None:
        if self._queue.rows >= self._queue.run_size:
            self._dispatch()
        else:
            # What came while the requests of that turn were read is read in this one, after this. Where many clients
            # ask, that doubles the batches; where one does, it costs one more look at the sockets.
            self._dispatch_at = self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_at = None
        while self._free_runners:
            now = self._clock()
            batch = self._queue.next_batch(now)
            if batch is None:
                self._freed_at = inf  # all were given up, or wait for a delay to end
                break
            self._start(batch, now)
            if self._threads is None:
                self._dispatch_soon()  # let the loop read and write between two runs
                break
        else:
            return  # a runner that gets free will call again
        due = self._queue.due_at()
        if due is not None and self._dispatch_at is None:
            self._dispatch_at = self._loop.call_later(max(0.0, due - self._clock()), self._dispatch)
        self._settle()

    def _start(self, batch: Batch, now: float) -> None:
        self._free_runners -= 1
        self._running_rows += batch.rows
        freed, self._freed_at = min(now, self._freed_at), inf
        if self._threads is None:
            outcome = self._run(batch)
            if len(batch.slices) > FEW_ANSWERS:  # many answers take as long as a run: let the loop look up in between
                self._loop.call_soon(self._finish, batch, freed, now, outcome)
            else:
                self._finish(batch, freed, now, outcome)
        else:
            future = self._threads.submit(self._run, batch)
            finish = partial(self._finish, batch, freed, now)
            future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(finish, done.result()))

    def _run(self, batch: Batch) -> _Outcome:
        begin = self._clock()
        gathered = begin
        outputs: list[Array] | Exception
        try:
            inputs = batch.gather()
            gathered = self._clock()
            outputs = self._model.run(inputs)
        except Exception as error:  # the model's fault, whatever it is; logged and answered in _finish
            outputs = error
        return _Outcome(outputs, gathered - begin, self._clock() - gathered)

    def _finish(self, batch: Batch, freed: float, started: float, outcome: _Outcome) -> None:
        self._free_runners += 1
        self._running_rows -= batch.rows
        begin = self._clock()
        if isinstance(outcome.outputs, Exception):
            log.error("A run of %d rows failed: %s", batch.rows, outcome.outputs, exc_info=outcome.outputs)
            batch.fail(ServerFailed("The runtime failed on this batch. The server's log has the details."))
        else:
            self._throughput.observe(batch.rows, begin - freed)  # with what kept its runner from it
            batch.scatter(outcome.outputs)
        if self._queue.rows:
            self._freed_at = begin
            self._dispatch_soon()
        self._settle()
        self._observer.ran(
            RunReport(
                batch,
                waited=[started - entry.arrived for entry, _, _ in batch.slices],
                gather_seconds=outcome.gather_seconds,
                run_seconds=outcome.run_seconds,
                scatter_seconds=self._clock() - begin,
                failed=isinstance(outcome.outputs, Exception),
            )
        )

    def _settle(self) -> None:
        if self._queue.rows == 0 and self._running_rows == 0:
            self._idle.set()
