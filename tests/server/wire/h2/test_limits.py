from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.wire.h2.limits import Action, Limits, Patience, Sight

LIMITS = Limits(
    idle_seconds=100, age_seconds=1000, age_grace_seconds=50, keepalive_seconds=30, keepalive_timeout_seconds=5,
    greeting_seconds=10, stall_seconds=20,
)  # fmt: skip


def sight(**changes):
    return Sight(**{"greeted": True, "calls": 0, "opened": 0, "received": 0, "sent": 0, "unsent": 0, **changes})


def judged(*steps, limits=LIMITS):
    """The verdicts on what is seen at these times."""
    patience = Patience(limits, 0.0)
    return [patience.judge(now, seen).action for now, seen in steps]


def test_a_connection_that_does_not_greet_is_cut():
    mute = sight(greeted=False)
    assert judged((9, mute), (10, mute)) == [Action.NOTHING, Action.CUT]


def test_an_idle_connection_leaves_and_one_with_calls_does_not():
    assert judged((100, sight(received=1))) == [Action.LEAVE]
    busy = [(now, sight(calls=1, received=now)) for now in (90, 180, 270)]
    assert judged(*busy) == [Action.NOTHING] * 3


def test_short_calls_between_two_looks_count_as_work():
    steps = [(now, sight(opened=now, received=now)) for now in (60, 120, 180)]
    assert judged(*steps, (279, sight(opened=180, received=200)), (280, sight(opened=180, received=201))) == [
        Action.NOTHING,
        Action.NOTHING,
        Action.NOTHING,
        Action.NOTHING,
        Action.LEAVE,
    ]


def test_silence_is_asked_about_and_only_an_answer_helps():
    assert judged((30, sight()), (34, sight()), (35, sight())) == [Action.PING, Action.NOTHING, Action.CUT]
    assert judged((30, sight()), (34, sight(received=17)), (35, sight(received=17)), (64, sight(received=17))) == [
        Action.PING,
        Action.NOTHING,
        Action.NOTHING,
        Action.PING,
    ]


def test_an_answer_that_nobody_reads_is_cut_and_a_slow_reader_is_not():
    stuck = sight(unsent=10, calls=1)
    assert judged((19, stuck), (20, stuck)) == [Action.NOTHING, Action.CUT]
    slow = [(now, sight(unsent=10, sent=now, calls=1, received=now)) for now in range(0, 200, 10)]
    assert set(judged(*slow)) == {Action.NOTHING}
    waits = [(40, sight(calls=1, received=1)), (45, sight(unsent=10, calls=1, received=2))]
    assert judged(*waits) == [Action.NOTHING] * 2, "the wait begins with the answer"


def test_age_comes_with_grace():
    limits = Limits(age_seconds=1000, age_grace_seconds=50)
    patience = Patience(limits, 0.0, jitter=0.9)
    assert patience.judge(899, sight(calls=1)).action is Action.NOTHING
    assert patience.judge(900, sight(calls=1)).action is Action.LEAVE
    patience.leaves(900)
    patience.leaves(940)
    assert patience.judge(949, sight(calls=1)).action is Action.NOTHING
    assert patience.judge(950, sight(calls=1)).action is Action.CUT


@pytest.mark.parametrize(
    ("seconds", "received", "slow"), [(19, 0, False), (20, 0, True), (20, 81_920, False), (1000, 81_920, True)]
)
def test_a_request_must_come_at_a_fair_pace(seconds, received, slow):
    assert Patience(Limits(), 0.0).is_too_slow(seconds, received) is slow


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 3), st.booleans(), st.booleans()), max_size=40))
def test_a_client_that_keeps_talking_and_reading_is_never_cut(steps):
    patience = Patience(Limits(age_seconds=inf, keepalive_seconds=10, keepalive_timeout_seconds=60), 0.0)
    now = received = sent = 0.0
    for seconds, calls, _, waits in steps:
        now, received, sent = now + seconds, received + 1, sent + 1
        seen = sight(calls=calls, opened=0, received=received, sent=sent, unsent=int(waits))
        assert patience.judge(now, seen).action is not Action.CUT
