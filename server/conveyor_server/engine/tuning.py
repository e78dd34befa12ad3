"""Finds the run size of a model on this machine by timing a few. Knows nothing of the runtime: it is given a function.

One large run is often slower per row than several that fit the caches, so larger is not simply better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

RUN_SIZES = (1, 4, 16, 32, 64, 128, 256)
PASSES = 3
"""Over all sizes: a machine that is slow for a tenth of a second must not be slow for some sizes only."""
SECONDS_PER_TRY = 0.01
WORTH_WHILE = 1.1
"""A larger run makes every row in it wait longer, so it must be this much faster per row to be taken."""
AROUND_SECONDS = 4e-5
"""What a run takes beside its own time, at the least: a turn of the event loop, the gathering of its inputs. Four rows
may be nearly as fast as 64 in the runtime alone, and are half as fast in a server."""


@dataclass(frozen=True)
class RunSize:
    """The chosen rows of a full run, and what was measured with it."""

    rows: int
    seconds: float
    """Shortest duration of one full run."""

    @property
    def rows_per_second(self) -> float:
        """Rows a second in full runs."""
        return self.rows / self.seconds


def tune_run_size(
    run: Callable[[int], None], clock: Callable[[], float], sizes: Sequence[int], patience: float = 1.0
) -> RunSize:
    """Times `run(rows)` for rising sizes, several times over, and keeps the fastest per row, with what is around a run.

    Args:
        run: runs the model once with this many rows.
        clock: seconds.
        sizes: what to try, rising; at least one.
        patience: seconds; sizes whose single run takes longer are not looked at beyond the first such one.
    """
    shortest: dict[int, float] = {}
    for rows in sizes:
        run(rows)  # the first run of a size allocates
        shortest[rows] = _shortest(run, rows, clock)
        if shortest[rows] > patience:
            break
    for _ in range(PASSES - 1):
        for rows in [rows for rows, seconds in shortest.items() if seconds < SECONDS_PER_TRY]:
            shortest[rows] = min(shortest[rows], _shortest(run, rows, clock))
    best, best_rate = 0, 0.0
    for rows, seconds in shortest.items():
        rate = rows / (seconds + AROUND_SECONDS)
        if rate > best_rate * WORTH_WHILE:
            best, best_rate = rows, rate
    return RunSize(best, max(shortest[best], 1e-9))


def _shortest(run: Callable[[int], None], rows: int, clock: Callable[[], float]) -> float:
    """Seconds of the run that was disturbed least: whatever else the machine does only ever makes runs longer."""
    shortest = inf
    end = clock() + SECONDS_PER_TRY
    while shortest == inf or clock() < end:
        start = clock()
        run(rows)
        shortest = min(shortest, clock() - start)
    return shortest
