import pytest

from conveyor_server.engine.tuning import tune_run_size


class Machine:
    """A machine on which a run of n rows takes as long as the test says; time passes only in runs."""

    def __init__(self, seconds):
        self.now = 0.0
        self.seconds = seconds
        self.seen = []

    def run(self, rows):
        self.seen.append(rows)
        self.now += self.seconds(rows)

    def clock(self):
        return self.now


SIZES = (1, 4, 16, 64, 256)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (lambda rows: 2e-5 + rows * 1e-5, 64),  # a fixed cost a run: larger is better, 256 hardly so
        (lambda rows: rows * 1e-5, 64),  # no fixed cost of its own, but the server has one
        (lambda rows: rows * 1e-2, 1),  # no fixed cost to speak of: nothing to gain by waiting
        (lambda rows: 1e-4 + rows * (1e-5 if rows <= 16 else 3e-5), 16),  # beyond 16 rows it falls out of the caches
    ],
)
def test_the_smallest_run_that_is_about_as_fast_per_row_as_any(seconds, best):
    machine = Machine(seconds)
    chosen = tune_run_size(machine.run, machine.clock, SIZES)
    assert chosen.rows == best
    assert chosen.seconds == pytest.approx(seconds(best))
    assert chosen.rows_per_second == pytest.approx(best / seconds(best))


@pytest.mark.parametrize("begin", [0.0, 0.02, 0.05, 0.1])
def test_a_machine_that_is_slow_for_a_while_changes_nothing(begin):
    """Else a replica that was disturbed when it started would be a slow one for as long as it lives."""
    machine = Machine(lambda rows: (2e-5 + rows * 1e-5) * (3 if begin <= machine.now < begin + 0.1 else 1))
    chosen = tune_run_size(machine.run, machine.clock, SIZES)
    assert chosen.rows == 64
    assert chosen.seconds == pytest.approx(2e-5 + 64e-5)


def test_a_slow_model_is_not_tried_beyond_patience():
    machine = Machine(lambda rows: 2.0 * rows)
    tune_run_size(machine.run, machine.clock, SIZES)
    assert set(machine.seen) == {1}


def test_a_run_too_short_for_the_clock_is_no_division_by_zero():
    times = iter(range(10_000))
    chosen = tune_run_size(lambda rows: None, lambda: next(times) // 4 * 0.02, [1])
    assert chosen.rows_per_second > 0
