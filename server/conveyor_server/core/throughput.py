"""How fast a model answers, learned from its runs. Decides whether work can meet its deadline."""

_NEW_RUN_WEIGHT = 0.1
_FULL_ENOUGH = 0.5


class Throughput:
    """Rows a second when runs are full, as a moving average.

    Small runs are slower per row than full ones and say nothing about a queue that will be served by full ones, so a
    run under half the full size counts only when it was faster than the average.

    Args:
        rows_per_second: the first estimate, measured when the model was loaded.
        run_size: rows of a full run.
    """

    def __init__(self, rows_per_second: float, run_size: int) -> None:
        self.rows_per_second = rows_per_second
        self._run_size = run_size

    def observe(self, rows: int, seconds: float) -> None:
        """Takes in one run: its rows, and how long it took."""
        measured = rows / max(seconds, 1e-9)
        if rows >= self._run_size * _FULL_ENOUGH or measured > self.rows_per_second:
            self.rows_per_second += _NEW_RUN_WEIGHT * (measured - self.rows_per_second)

    def seconds_for(self, rows: int) -> float:
        """How long this many rows take, in seconds."""
        return rows / self.rows_per_second
