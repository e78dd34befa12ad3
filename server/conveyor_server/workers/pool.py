"""Keeps so many workers running: starts them, starts them anew when they end, and replaces them in turn."""

import asyncio
import logging
import signal
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from conveyor_server.core.errors import StartError
from conveyor_server.engine.broadcast import Broadcast
from conveyor_server.workers.backoff import FIRST_SECONDS, Backoff
from conveyor_server.workers.sayings import Topic
from conveyor_server.workers.worker_process import WorkerProcess

log = logging.getLogger(__name__)

_CLOSING_SECONDS = 10.0
"""What a worker may take on top of a drain: for its port, its connections, its last metrics."""


class WorkerState(StrEnum):
    """What the workers can be, as metrics tell it."""

    STARTING = "starting"
    READY = "ready"
    NOT_READY = "not_ready"
    DRAINING = "draining"
    FAILED = "failed"
    """It has ended, and waits to be started again."""


class Pool:
    """The workers of one server.

    Args:
        count: how many there are to be.
        launch: starts the one with that number.
        ended: called with each worker that has ended.
        drain_seconds: how long a worker may take to answer what it has accepted.

    Attributes:
        workers: those that run, also those that are about to end.
        restarts: how often one was started because another one had ended without being told to.
        complete: whether all have been ready at the same time.
        failure: why the server cannot start, once a worker has said so.
        news: rings when a worker has come, has become something else, or has ended.
    """

    def __init__(
        self,
        count: int,
        launch: Callable[[int], WorkerProcess],
        ended: Callable[[WorkerProcess], None],
        drain_seconds: float,
    ) -> None:
        self.count = count
        self.workers: list[WorkerProcess] = []
        self.restarts = 0
        self.complete = False
        self.failure: StartError | None = None
        self.news = Broadcast()
        self._launch, self._on_end, self._drain_seconds = launch, ended, drain_seconds
        self._current: dict[int, WorkerProcess | None] = dict.fromkeys(range(1, count + 1))
        self._tending: list[asyncio.Task[None]] = []
        self._watching: set[asyncio.Task[None]] = set()

    @property
    def current(self) -> list[WorkerProcess]:
        """The workers that are to stay."""
        return [worker for worker in self._current.values() if worker is not None]

    @property
    def ready(self) -> bool:
        """Whether requests should come here: at first when all workers are ready, later while half of them are."""
        ready = sum(worker.answers for worker in self.current)
        self.complete = self.complete or ready == self.count
        return self.complete and 2 * ready >= self.count

    @property
    def settled(self) -> bool:
        """Whether all have loaded what they could, and either all of them answer or none does."""
        current = self.current
        loaded = len(current) == self.count and all(worker.state.loaded for worker in current)
        return loaded and len({worker.state.answers for worker in current}) == 1

    def states(self) -> Counter[WorkerState]:
        """How many workers are what."""
        found = Counter(dict.fromkeys(WorkerState, 0))
        found[WorkerState.FAILED] = self.count - len(self.current)
        for worker in self.workers:
            if worker.leaving:
                found[WorkerState.DRAINING] += 1
            elif not worker.state.loaded:
                found[WorkerState.STARTING] += 1
            else:
                found[WorkerState.READY if worker.answers else WorkerState.NOT_READY] += 1
        return found

    def choose(self) -> WorkerProcess | None:
        """Who gets the next connection: of those that are farthest, the one with the fewest."""
        able = [worker for worker in self.workers if worker.takes_connections]
        return min(able, key=lambda w: (w.is_silent, not w.state.loaded, not w.answers, w.connections), default=None)

    def start(self) -> None:
        """Starts all of them; they are kept running from here on."""
        for number in self._current:
            self._current[number] = self._begin(number)
            self._tending.append(asyncio.create_task(self._tend(number)))

    async def replace_all(self) -> None:
        """Puts a new worker in the place of each, in turn; the old ones stay when one does not get ready."""
        for number in self._current:
            if not await self._replace(number):
                return
        log.info("All workers are new.")

    async def stop(self) -> None:
        """Has all of them finish what was accepted, and end."""
        self._stop_tending()
        for worker in self.workers:
            worker.leave(Topic.STOP)
        await asyncio.gather(*(self._see_off(worker, self._drain_seconds) for worker in self.workers))

    def kill(self) -> None:
        """Ends all that are left at once."""
        self._stop_tending()
        for worker in self.workers:
            worker.kill()

    async def close(self) -> None:
        """The same, and returns when they have ended."""
        self.kill()
        await asyncio.gather(*(worker.ended() for worker in self.workers))

    def _stop_tending(self) -> None:
        for task in self._tending:
            task.cancel()

    def _begin(self, number: int) -> WorkerProcess:
        worker = self._launch(number)
        self.workers.append(worker)
        task = asyncio.create_task(self._follow(worker))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        return worker

    async def _follow(self, worker: WorkerProcess) -> None:
        """Goes with a worker from its start to its end."""
        watching = asyncio.create_task(worker.watch())
        code = await worker.ended()
        watching.cancel()
        self.workers.remove(worker)
        if worker.leaving and code:
            log.error("%s", _obituary(worker, code))
        self._on_end(worker)
        self.news.notify()

    async def _tend(self, number: int) -> None:
        """Sees to it that there is a worker of that number."""
        backoff = Backoff()
        while True:
            worker = self._current[number]
            assert worker is not None, "There is always one when this loop begins. This is a bug."
            code = await worker.ended()
            if self._current[number] is not worker:
                continue  # it was replaced
            self._current[number] = None
            if not self.complete and (worker.failure or not worker.up):
                self.failure = StartError(worker.failure or _obituary(worker, code))
                self.news.notify()
                return
            pause = backoff.next_pause(worker.lifetime)
            log.error("%s It is started anew %s.", _obituary(worker, code), f"in {pause:g} s" if pause else "at once")
            self.news.notify()
            await asyncio.sleep(pause)
            if await self._got_ready(await self._fill(number), number):
                self._spread_anew()

    async def _fill(self, number: int) -> WorkerProcess:
        """Starts a worker, unless a reload has done so meanwhile."""
        while (worker := self._current[number]) is None:
            try:
                self._current[number] = self._begin(number)
                self.restarts += 1
            except OSError as error:
                log.error("Worker %d cannot be started: %s.", number, error)
                await asyncio.sleep(FIRST_SECONDS)
        return worker

    def _spread_anew(self) -> None:
        """Has connections end where there are more than elsewhere: clients keep theirs, so a new worker has none."""
        able = [worker for worker in self.current if worker.takes_connections and worker.answers]
        if not able:
            return
        fair = -(-sum(worker.connections for worker in able) // len(able))
        for worker in able:
            if worker.connections > fair:
                worker.send_away(worker.connections - fair)

    async def _replace(self, number: int) -> bool:
        """Puts a new worker in the place of one. Returns whether it got there."""
        try:
            new = self._begin(number)
        except OSError as error:
            log.error("The reload ends here, and the old workers stay: %s.", error)
            return False
        if not await self._got_ready(new, number):
            new.kill()
            log.error(
                "The reload ends here, and the old workers stay: %s", new.failure or "no model answers in the new."
            )
            return False
        old, self._current[number] = self._current[number], new
        self.news.notify()
        if old is not None:
            log.info("Worker %d: process %d takes over from %d.", number, new.pid, old.pid)
            old.leave(Topic.RETIRE)
            await self._see_off(old, 2 * self._drain_seconds)
        return True

    async def _got_ready(self, new: WorkerProcess, number: int) -> bool:
        """Waits until a new worker is as ready as the old one of that number, or has failed to be."""
        while new in self.workers:
            news = self.news.listen()
            if new.state.loaded:
                old = self._current[number]
                return new.answers or old is None or not old.answers
            await news.wait()
        return False

    async def _see_off(self, worker: WorkerProcess, seconds: float) -> None:
        """Waits until one has ended that was told to, and ends it when it takes too long."""
        try:
            async with asyncio.timeout(seconds + _CLOSING_SECONDS):
                await worker.ended()
        except TimeoutError:
            log.error("Worker %d did not end in time, and is killed.", worker.number)
            worker.kill()


def _obituary(worker: WorkerProcess, code: int) -> str:
    if worker.failure:
        return f"Worker {worker.number} cannot start: {worker.failure}"
    how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
    lost = "requests that it had accepted are lost" if worker.up else "it had not begun to serve"
    return f"Worker {worker.number} (process {worker.pid}) has ended {how}; {lost}."
