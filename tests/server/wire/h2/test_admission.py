from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.errors import Overloaded, TooLate
from conveyor_server.wire.h2.admission import Admission
from conveyor_server.wire.traffic import Traffic

LIMIT = 100


def admission(in_progress=1):
    traffic = Traffic()
    traffic.begin(in_progress)
    return Admission(traffic, LIMIT)


def status(headers):
    return dict(headers)[b"grpc-status"], dict(headers)[b"grpc-message"]


def test_up_to_the_limit_all_come_in_and_above_it_none():
    assert admission(LIMIT - 1).refusal(None) is None
    full = admission(LIMIT)
    code, text = status(full.refusal(None))
    assert code == b"14"
    assert b"100 requests are in progress" in text
    assert full.refused == {Overloaded: 1}


def test_requests_on_streams_take_no_place():
    traffic = Traffic()
    traffic.begin_on_stream(10 * LIMIT)
    admitting = Admission(traffic, LIMIT)
    assert admitting.refusal(None) is None
    traffic.begin(LIMIT)
    assert admitting.refusal(None) is not None
    traffic.end_on_stream(10 * LIMIT)
    assert traffic.in_progress == LIMIT


def test_nothing_is_refused_before_something_was_late():
    assert admission().refusal(0.0001) is None


def test_requests_with_as_little_time_left_as_those_that_were_late_are_refused():
    taught = admission()
    for _ in range(20):
        taught.was_late()
    code, text = status(taught.refusal(0.01))
    assert (code, taught.refused) == (b"14", {TooLate: 1})
    assert b"deadline cannot be met" in text
    assert taught.refusal(0.1) is None
    assert taught.refusal(None) is None, "who sets no deadline waits"


def test_with_nothing_in_progress_any_request_is_welcome():
    taught = admission(0)
    for _ in range(1000):
        taught.was_late()
    assert taught.refusal(0.001) is None


def test_what_was_learned_is_forgotten_when_requests_are_answered():
    taught = admission()
    for _ in range(100):
        taught.was_late()
    for _ in range(5000):
        taught.was_answered()
    assert taught.refusal(0.001) is None


def test_impossible_deadlines_do_not_spoil_it_for_others():
    """Someone asks again and again for an answer within a millisecond, of a model that needs three."""
    taught = admission()
    for _ in range(10_000):
        if taught.refusal(0.001) is None:
            taught.was_late()
        assert taught.refusal(0.01) is None
        taught.was_answered()
    assert taught.margin < 0.005


@given(st.lists(st.booleans(), max_size=300))
def test_the_margin_stays_within_reason(outcomes):
    taught = admission()
    for late in outcomes:
        if late:
            taught.was_late()
        else:
            taught.was_answered()
        assert 0 <= taught.margin <= 10
