import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.kept_rounds import KeptRounds
from harness.medians import median, quantile
from harness.results import Comparison, to_text

values = st.recursive(
    st.integers() | st.text() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), values))
def test_what_is_written_is_what_was_meant(value):
    assert json.loads(to_text(value)) == value


def test_numbers_are_rounded_to_what_they_are_worth():
    assert json.loads(to_text({"a": [1234.56789, 0.000123456789]})) == {"a": [1234.6, 0.00012346]}


@given(st.lists(st.floats(0, 1e6), min_size=1).map(sorted), st.floats(0, 1))
def test_a_quantile_is_a_value_that_was_measured(ascending, q):
    assert quantile(ascending, q) in ascending
    assert quantile(ascending, 0) == ascending[0]
    assert quantile(ascending, 1) == ascending[-1]


def test_nothing_has_no_median():
    assert math.isnan(median([]))
    assert math.isnan(quantile([], 0.5))


def test_a_figure_is_the_median_of_the_rounds(raw):
    found = Comparison(raw)
    assert found.figure("conveyor-h2", "single-64", "requests_per_second") == 40_000
    assert found.best_in_process() == (64, 250_000)
    assert found.process("conveyor-h2", "start_seconds") == 1.0
    assert found.process("conveyor-h2", "start_seconds", "with_demo_models") == 0.5


def test_one_wrong_answer_voids_the_row_in_all_rounds(raw):
    raw["servers"]["triton"]["rounds"][1]["rows"]["single-64"] = {"void": "3 of 1,000 requests failed"}
    found = Comparison(raw)
    assert found.windows("triton", "single-64") == []
    assert math.isnan(found.figure("triton", "single-64", "requests_per_second"))
    assert found.void("triton", "single-64") == "3 of 1,000 requests failed"
    assert found.voids() == ["triton, single-64: 3 of 1,000 requests failed"]
    assert found.figure("triton", "single-1", "p50_ms") > 0


def test_what_was_not_measured_is_no_number(raw):
    found = Comparison(raw)
    assert math.isnan(found.figure("ray", "single-64", "cpu_us"))
    assert math.isnan(found.in_process(2))
    assert not found.measured("ray")
    assert math.isnan(Comparison({"servers": {}, "in_process": []}).best_in_process()[1])


FACTS = {"commit": "0123456789ab", "seconds": 1.5}


@pytest.mark.parametrize(
    ("facts", "resume", "kept"),
    [
        (FACTS, False, True),
        (FACTS | {"date": "2026-11-26"}, False, True),
        (FACTS | {"commit": "ba9876543210"}, False, False),
        (FACTS | {"seconds": 2.0}, False, False),
        (FACTS | {"commit": "ba9876543210"}, True, True),
    ],
)
def test_rounds_are_taken_up_when_nothing_has_changed_or_when_asked(tmp_path, facts, resume, kept):
    rounds = KeptRounds(tmp_path)
    rounds.begin(FACTS, resume=False)
    rounds.save("triton", 0, {"start_seconds": 1})
    rounds.begin(facts, resume=resume)
    assert rounds.load("triton", 0) == ({"start_seconds": 1} if kept else {})
    assert rounds.facts() == (facts if not kept else FACTS)


def test_rounds_of_a_changed_checkout_are_not_taken_up_by_themselves(tmp_path):
    rounds, facts = KeptRounds(tmp_path), FACTS | {"commit": "0123456789ab+"}
    rounds.begin(facts, resume=False)
    rounds.save("triton", 0, {"start_seconds": 1})
    rounds.begin(facts, resume=False)
    assert rounds.load("triton", 0) == {}


def test_rounds_come_in_order_and_not_those_of_other_servers(tmp_path):
    rounds = KeptRounds(tmp_path)
    rounds.begin(FACTS, resume=False)
    for number in (10, 2, 0):
        rounds.save("conveyor-h2", number, {"number": number})
    rounds.save("demo-conveyor-h2", 1, {"number": -1})
    rounds.save("conveyor-h2-2", 1, {"number": -2})
    assert [one["number"] for one in rounds.all("conveyor-h2")] == [0, 2, 10]
