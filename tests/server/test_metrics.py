import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from conveyor_server.core import errors
from conveyor_server.core.batch import Batch, Entry
from conveyor_server.core.batch_queue import QueuePolicy
from conveyor_server.core.model import ModelSpec
from conveyor_server.engine.batcher import Batcher, RunReport
from conveyor_server.metrics import Buckets, Metrics
from conveyor_server.transport_metrics import TransportMetrics
from conveyor_server.wire.inference import Inference, Wish
from conveyor_server.wire.status import STATUS_OF, Status
from support.puppets import FakeCall, PuppetModel, Slot


class Answered:
    """A request that has ended, as observers see it."""

    def __init__(self, model="", error=None):
        self.spec = ModelSpec(model, 1, (), (), 1) if model else None
        self.error = error


def read(metrics, states=(), in_flight=0):
    page = metrics.exposition(states, in_flight).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_requests_count_by_model_and_code():
    metrics = Metrics()
    for model, status in [("a", Status.OK), ("a", Status.OK), ("a", Status.CANCELLED), ("", Status.NOT_FOUND)]:
        metrics.finished(Answered(model), status, 0.003)
    page = read(metrics, in_flight=7)
    assert page["conveyor_requests_total", "OK", "a"] == 2
    assert page["conveyor_requests_total", "CANCELLED", "a"] == 1
    assert page["conveyor_requests_total", "NOT_FOUND", ""] == 1
    assert page["conveyor_request_duration_seconds_count", "a"] == 3
    assert page["conveyor_request_duration_seconds_sum", "a"] == pytest.approx(0.009)
    assert page["conveyor_request_duration_seconds_bucket", "0.002", "a"] == 0
    assert page["conveyor_request_duration_seconds_bucket", "0.005", "a"] == 3
    assert page[("conveyor_in_flight_requests",)] == 7


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.Overloaded, "queue_full"),
        (errors.TooLate, "deadline"),
        (errors.WaitExpired, "queue_timeout"),
        (errors.Draining, "draining"),
        (errors.ModelNotReady, "not_ready"),
    ],
)
def test_refusals_count_by_reason(error, reason):
    metrics = Metrics()
    metrics.finished(Answered("a", error("no")), STATUS_OF[error], 0.001)
    metrics.finished(Answered("a", errors.InvalidRequest("no")), Status.INVALID_ARGUMENT, 0.001)
    page = read(metrics)
    counts = {key[2]: value for key, value in page.items() if key[0] == "conveyor_refused_requests_total"}
    assert sum(counts.values()) == counts[reason] == 1
    assert page["conveyor_refusal_duration_seconds_count", "a"] == 1


def test_what_a_transport_refused_counts_once_under_no_model():
    metrics = Metrics()
    refused = {errors.Overloaded: 3}
    for _ in range(2):
        metrics.take_in(refused)
    refused[errors.TooLate] = 2
    metrics.take_in(refused)
    page = read(metrics)
    assert page["conveyor_requests_total", "UNAVAILABLE", ""] == 5
    assert page["conveyor_refused_requests_total", "", "queue_full"] == 3
    assert page["conveyor_refused_requests_total", "", "deadline"] == 2
    assert page["conveyor_refusal_duration_seconds_bucket", "0.0001", ""] == 5


def test_a_transport_that_knows_its_connections_tells_them():
    known, unknown = SimpleNamespace(connections=3, endings={"age": 2}), SimpleNamespace(connections=None, endings={})
    page = read(Metrics(TransportMetrics(lambda: known)))
    assert page[("conveyor_connections",)] == 3
    assert page["conveyor_closed_connections_total", "age"] == 2
    assert not [key for key in read(Metrics(TransportMetrics(lambda: unknown))) if "connections" in key[0]]


def test_a_run_counts_once_and_a_split_request_waits_once():
    metrics = Metrics()
    entry = Entry((np.zeros((6, 1)),), 6, Slot())
    for start, stop, failed in [(0, 4, False), (4, 6, True)]:
        batch = Batch([(entry, start, stop)], stop - start)
        metrics.for_model("a").ran(RunReport(batch, [0.5], 0.0002, 0.01, 0.0001, failed=failed))
    page = read(metrics)
    assert page["conveyor_queue_duration_seconds_count", "a"] == 1
    assert page["conveyor_queue_duration_seconds_sum", "a"] == 0.5
    assert page["conveyor_batch_rows_sum", "a"] == 6
    assert page["conveyor_batch_rows_count", "a"] == 2
    assert page["conveyor_batch_rows_bucket", "2.0", "a"] == 1
    assert page["conveyor_failed_runs_total", "a"] == 1
    for phase, total in [("gather", 0.0004), ("run", 0.02), ("scatter", 0.0002)]:
        assert page[f"conveyor_{phase}_duration_seconds_sum", "a"] == pytest.approx(total)


async def test_what_the_batcher_reports_arrives(monkeypatch):
    metrics = Metrics()
    batcher = Batcher(PuppetModel(in_place=True), QueuePolicy(64, 10**6), metrics.for_model("a"))
    slot = Slot()
    batcher.submit((np.ones((3, 1)),), 3, math.inf, slot)
    await slot.wait()
    await batcher.drain()
    assert read(metrics)["conveyor_batch_rows_sum", "a"] == 3


async def test_names_that_clients_make_up_are_no_series():
    metrics = Metrics()
    for number in range(1000):
        request = Inference(FakeCall(), metrics)
        request.wish = Wish(f"made-up-{number}")
        request.fail(errors.ModelNotFound("no such model"))
    page = metrics.exposition((), 0).decode()
    assert "made-up" not in page
    assert {key[1:] for key in read(metrics) if key[0] == "conveyor_requests_total"} == {("NOT_FOUND", "")}


def test_the_process_tells_its_memory_and_time():
    page = read(Metrics())
    assert page[("process_resident_memory_bytes",)] > 10**6
    assert page[("process_cpu_seconds_total",)] > 0


@given(st.lists(st.sampled_from([0.0, 0.5, 1, 1.5, 2, 3, 1e9])))
def test_buckets_count_what_is_at_or_below_their_bound(values):
    buckets = Buckets((1, 2, 3))
    for value in values:
        buckets.observe(value)
    expected = [sum(value <= bound for value in values) for bound in (1, 2, 3, math.inf)]
    assert buckets.cumulative() == list(zip(["1.0", "2.0", "3.0", "+Inf"], map(float, expected), strict=True))
    assert buckets.total == sum(values)


def test_help_texts_are_sentences():
    page = Metrics().exposition((), 0).decode()
    helps = re.findall(r"^# HELP conveyor_\S+ (.*)$", page, re.MULTILINE)
    assert len(helps) == len(set(helps)) > 10
    assert all(text.endswith(".") for text in helps)
