"""Stand-ins that do what the test says, when the test says so."""

import asyncio
import threading
from collections.abc import Sequence
from math import inf

import numpy as np

from conveyor_server.core.errors import RequestError
from conveyor_server.core.model import Array
from conveyor_server.engine.batcher import RunReport
from conveyor_server.wire.inference import Inference
from conveyor_server.wire.status import Status


class PuppetModel:
    """Doubles its input. Each run waits for a permit, unless it is `free`."""

    def __init__(
        self, *, run_size: int = 8, in_place: bool = False, rows_per_second: float = 1e9, free: bool = False
    ) -> None:
        self.run_size = run_size
        self.rows_per_second = rows_per_second
        self.in_place = in_place
        self.runs: list[Array] = []
        self.failing = False
        self._free = free or in_place
        self._permits = threading.Semaphore(0)
        self._began = threading.Semaphore(0)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.runs.append(inputs[0].copy())
        self._began.release()
        if not self._free:
            assert self._permits.acquire(timeout=30), "The test never gave this run a permit."
        if self.failing:
            raise RuntimeError("the puppet was told to fail")
        return [inputs[0] * 2]

    async def began(self) -> None:
        """Returns when the next run has begun."""
        assert await asyncio.to_thread(self._began.acquire, timeout=30)

    def permit(self, runs: int = 1) -> None:
        self._permits.release(runs)

    def free(self) -> None:
        self._free = True
        self._permits.release(1000)


class Slot:
    """A reply slot that remembers what it was given."""

    def __init__(self) -> None:
        self.outcomes: list[list[Array] | RequestError] = []
        self.filled = asyncio.Event()

    def answer(self, outputs: Sequence[Array]) -> None:
        self.outcomes.append([np.array(output) for output in outputs])
        self.filled.set()

    def fail(self, error: RequestError) -> None:
        self.outcomes.append(error)
        self.filled.set()

    @property
    def outcome(self) -> list[Array] | RequestError:
        (only,) = self.outcomes
        return only

    async def wait(self) -> list[Array] | RequestError:
        await asyncio.wait_for(self.filled.wait(), 30)
        return self.outcome


class Runs:
    """An observer that counts."""

    def __init__(self) -> None:
        self.reports: list[RunReport] = []
        self.rows: list[int] = []
        self.finished_requests: list[tuple[str, str]] = []

    def ran(self, report: RunReport) -> None:
        self.reports.append(report)
        self.rows.append(report.batch.rows)

    def finished(self, request: Inference, status: Status, seconds: float) -> None:
        self.finished_requests.append((request.spec.name if request.spec else "", status.name))


class FakeCall:
    """A call without a socket."""

    def __init__(self, deadline: float = inf) -> None:
        self.deadline = deadline
        self.request_id = ""
        self.caller = ""
        self.method = "ModelInfer"
        self.metadata: dict[str, str] = {}
        self.initial_metadata: dict[str, str] = {}
        self.trailing_metadata: dict[str, str] = {}
        self.outcome: asyncio.Future[bytes | RequestError] = asyncio.get_running_loop().create_future()
        self.cancel = lambda: None

    def answer(self, response: bytes) -> None:
        self.outcome.set_result(response)

    def fail(self, error: RequestError) -> None:
        self.outcome.set_result(error)

    def when_cancelled(self, action) -> None:
        self.cancel = action
