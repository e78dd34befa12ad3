"""What one served model has done so far, in the counters of the protocol's statistics. Counts; knows no clock.

Durations are kept in seconds; clients read nanoseconds. A client divides a sum by its count to get the average of a
request, so the sums of a request that took several runs cover all of them and count once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from conveyor_server.core.batch import Batch

_NANOSECONDS = 1e9


class Run(Protocol):
    """What is told of one run; the batcher's report is one."""

    @property
    def batch(self) -> Batch:
        """What was run."""

    @property
    def waited(self) -> Sequence[float]:
        """For each slice of the batch the seconds from its request's arrival to the start of the run."""

    @property
    def gather_seconds(self) -> float:
        """Making the model's inputs of the requests'."""

    @property
    def run_seconds(self) -> float:
        """In the runtime."""

    @property
    def scatter_seconds(self) -> float:
        """Handing each request its rows."""

    @property
    def failed(self) -> bool:
        """Whether the requests got an error instead."""


@dataclass(slots=True)
class Duration:
    """How many, and how long together."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """`count` more, which took so long together."""
        self.count += count
        self.seconds += seconds

    @property
    def nanoseconds(self) -> int:
        """How long together, as clients read it."""
        return round(self.seconds * _NANOSECONDS)


@dataclass(slots=True)
class BatchStatistics:
    """The runs of one size. Counts are runs."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class ModelStatistics:
    """The counters of one version of a model. Fed once a run and once a request, in the event loop's thread."""

    success: Duration = field(default_factory=Duration)
    """Requests answered with outputs, and their time from arrival to answer."""
    fail: Duration = field(default_factory=Duration)
    """Requests that ended in any other way."""
    queue: Duration = field(default_factory=Duration)
    """Requests that were run, and their time from arrival to the start of their (first) run."""
    compute_input: Duration = field(default_factory=Duration)
    """Requests that were run, and the time in which their runs' inputs were made."""
    compute_infer: Duration = field(default_factory=Duration)
    """Requests that were run, and the time that their runs spent in the runtime."""
    compute_output: Duration = field(default_factory=Duration)
    """Requests that were run, and the time in which their runs' outputs were handed out."""
    batches: dict[int, BatchStatistics] = field(default_factory=dict)
    """By rows of a run."""
    inference_count: int = 0
    """Rows that were run."""
    execution_count: int = 0
    """Runs."""
    last_inference: int = 0
    """When the last run ended, in milliseconds since the epoch."""

    def ran(self, run: Run, now: int) -> None:
        """Takes in one run, which ended now, in milliseconds since the epoch.

        A failed one counts as nothing: its requests count as failed when they end.
        """
        if run.failed:
            return
        self.last_inference = now
        slices = run.batch.slices
        begun = [waited for (_, start, _), waited in zip(slices, run.waited, strict=True) if start == 0]
        self.inference_count += run.batch.rows
        self.execution_count += 1
        self.queue.add(sum(begun), len(begun))
        batch = self.batches.setdefault(run.batch.rows, BatchStatistics())
        for seconds, of_requests, of_runs in (
            (run.gather_seconds, self.compute_input, batch.compute_input),
            (run.run_seconds, self.compute_infer, batch.compute_infer),
            (run.scatter_seconds, self.compute_output, batch.compute_output),
        ):
            of_requests.add(seconds * len(slices), len(begun))
            of_runs.add(seconds)
