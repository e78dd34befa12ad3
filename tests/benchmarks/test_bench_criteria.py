import pytest

from harness.criteria import check, growth_of
from harness.results import Comparison


def verdicts(raw, overload=None):
    return {verdict.what: verdict for verdict in check(Comparison(raw), overload)}


def the_one(raw, part, overload=None):
    (found,) = [verdict for what, verdict in verdicts(raw, overload).items() if part in what]
    return found


def change(raw, server, row, **figures):
    for one in raw["servers"][server]["rounds"]:
        one["rows"][row] |= figures


def test_a_fast_server_meets_all(raw, overload):
    found = verdicts(raw, overload)
    assert len(found) == 17
    unmet = {what for what, verdict in found.items() if not verdict.met}
    assert all("grpcio, 3 times" in what for what in unmet)
    assert {found[what].word for what in unmet} == {"not measured"}


def test_the_figure_and_the_bound_are_said(raw):
    verdict = the_one(raw, "against Triton")
    assert (verdict.figure, verdict.required, verdict.word) == ("2.67 times", "at least 2.5 times", "met")


@pytest.mark.parametrize(
    ("part", "row", "figures"),
    [
        ("against grpcio", "single-64", {"requests_per_second": 29_000.0}),
        ("against Triton", "single-64", {"requests_per_second": 37_000.0}),
        ("against mosec", "single-64", {"requests_per_second": 35_000.0}),
        ("CPU a request", "single-64", {"cpu_us": 23.0}),
        ("p50 against", "single-1", {"p50_ms": 0.07}),
        ("32 images a request", "batch-32", {"images_per_second": 160_000.0}),
        ("1,000 images a request", "batch-1000", {"images_per_second": 190_000.0}),
    ],
)
def test_a_slower_server_misses_the_criterion(raw, part, row, figures):
    assert the_one(raw, part).met
    change(raw, "conveyor-h2", row, **figures)
    assert the_one(raw, part).word == "missed"


def test_a_faster_processor_allows_less_cpu_time(raw):
    assert the_one(raw, "CPU a request").required == "at most 22.2 µs"
    raw["in_process"] = [{"64": 500_000.0}]
    assert the_one(raw, "CPU a request").required == "at most 11.1 µs"


@pytest.mark.parametrize(("name", "value"), [("start_seconds", 1.6), ("idle_mib", 151.0)])
def test_start_and_memory_are_those_with_the_models_of_the_demo(raw, name, value):
    raw["servers"]["conveyor-h2"]["with_demo_models"] = [{"start_seconds": 0.5, "idle_mib": 120.0, name: value}]
    part = "start to ready" if name == "start_seconds" else "memory of an idle worker"
    assert the_one(raw, part).word == "missed"


@pytest.mark.parametrize(
    ("part", "figures"),
    [
        ("goodput", {"goodput_ratio": 0.89}),
        ("p99 of what was answered", {"answered_p99_ms": 101.0}),
        ("median from arrival to refusal", {"server_refusal_p50_ms": 5.1}),
        ("memory of the last ten seconds", {"resident_mib_by_second": [100.0] * 30 + [110.0] * 30}),
    ],
)
def test_a_server_that_buckles_misses_the_criterion(raw, overload, part, figures):
    part = f"tutorial network, h2, 3 times the sustainable rate for a minute: {part}"
    assert the_one(raw, part, overload).met
    overload["networks"]["tutorial"]["servers"]["conveyor-h2"]["minute"] |= figures
    assert the_one(raw, part, overload).word == "missed"


def test_a_server_that_refused_nothing_by_itself_was_not_measured_at_it(raw, overload):
    overload["networks"]["tutorial"]["servers"]["conveyor-h2"]["minute"]["server_refusal_p50_ms"] = None
    assert the_one(raw, "h2, 3 times the sustainable rate for a minute: median from", overload).word == "not measured"


def test_a_void_row_of_a_rival_is_no_victory(raw):
    raw["servers"]["triton"]["rounds"][0]["rows"]["single-64"] = {"void": "wrong"}
    assert the_one(raw, "against Triton").word == "not measured"


def test_nothing_measured_is_nothing_met():
    empty = {"servers": {}, "in_process": []}
    assert {verdict.word for verdict in check(Comparison(empty))} == {"not measured"}


def test_a_few_seconds_say_nothing_of_memory():
    assert str(growth_of([100.0] * 19)) == "nan"
    assert growth_of([100.0] * 10 + [150.0] * 10) == 1.5
