from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.batch_queue import Batch, Entry
from conveyor_server.core.statistics import Duration, ModelStatistics
from support.puppets import Slot

NOW = 1_700_000_000_123


@dataclass
class Run:
    batch: Batch
    waited: list[float] = field(default_factory=list)
    gather_seconds: float = 0.001
    run_seconds: float = 0.01
    scatter_seconds: float = 0.002
    failed: bool = False


def entry(rows):
    return Entry((np.zeros((rows, 1)),), rows, Slot())


def batch(*slices):
    return Batch(list(slices), sum(stop - start for _, start, stop in slices))


def as_pair(duration: Duration):
    return duration.count, duration.nanoseconds


def test_a_run_counts_its_rows_once_and_its_time_for_every_request_in_it():
    statistics = ModelStatistics()
    statistics.ran(Run(batch((entry(1), 0, 1), (entry(3), 0, 3)), [0.5, 0.25]), NOW)
    assert (statistics.inference_count, statistics.execution_count) == (4, 1)
    assert as_pair(statistics.queue) == (2, 750_000_000)
    assert as_pair(statistics.compute_input) == (2, 2_000_000)
    assert as_pair(statistics.compute_infer) == (2, 20_000_000)
    assert as_pair(statistics.compute_output) == (2, 4_000_000)
    assert statistics.last_inference == NOW
    (of_four,) = statistics.batches.items()
    assert of_four[0] == 4
    assert as_pair(of_four[1].compute_infer) == (1, 10_000_000)


def test_a_split_request_counts_once_with_the_time_of_all_its_runs():
    statistics, large = ModelStatistics(), entry(10)
    statistics.ran(Run(batch((large, 0, 8)), [0.1]), NOW)
    statistics.ran(Run(batch((large, 8, 10)), [0.3]), NOW)
    assert (statistics.inference_count, statistics.execution_count) == (10, 2)
    assert as_pair(statistics.queue) == (1, 100_000_000)
    assert as_pair(statistics.compute_infer) == (1, 20_000_000)
    assert sorted(statistics.batches) == [2, 8]


def test_a_failed_run_counts_nothing():
    statistics = ModelStatistics()
    statistics.ran(Run(batch((entry(1), 0, 1)), [0.5], failed=True), NOW)
    assert statistics == ModelStatistics()


def test_requests_count_by_how_they_ended():
    statistics = ModelStatistics()
    statistics.success.add(0.5)
    statistics.fail.add(0.25)
    assert as_pair(statistics.success) == (1, 500_000_000)
    assert as_pair(statistics.fail) == (1, 250_000_000)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), max_size=9))
def test_batches_add_up_to_the_totals(runs):
    statistics = ModelStatistics()
    for rows in runs:
        statistics.ran(Run(batch(*((entry(number), 0, number) for number in rows)), [0.0] * len(rows)), NOW)
    assert sum(rows * one.compute_infer.count for rows, one in statistics.batches.items()) == statistics.inference_count
    assert (
        sum(one.compute_infer.count for one in statistics.batches.values()) == statistics.execution_count == len(runs)
    )
    assert statistics.queue.count == sum(map(len, runs)) == statistics.compute_output.count
    assert statistics.compute_infer.nanoseconds == pytest.approx(sum(map(len, runs)) * 10_000_000)
