from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.client.retries import Retries, RetryPolicy

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 20),
    initial_backoff=st.floats(0.001, 1),
    multiplier=st.floats(1, 10),
    max_backoff=st.floats(1, 100),
    budget=st.floats(1, 50),
    token_ratio=st.floats(0.01, 2),
)


@given(policies, st.integers(1, 2000), st.floats(0, 1, exclude_max=True))
def test_waits_are_random_grow_and_have_a_limit(policy, backoffs, drawn):
    pause = Retries(policy, lambda: drawn).refused(1, backoffs, None)
    most = Retries(policy, lambda: 1.0).refused(1, backoffs, None)
    if policy.max_attempts == 1 or policy.budget <= 2:
        assert pause is None
    else:
        assert pause == pytest.approx(drawn * most)
        assert most <= policy.max_backoff
        assert most == policy.max_backoff or most >= policy.initial_backoff * policy.multiplier ** min(backoffs - 1, 60)


@given(policies, st.lists(st.booleans(), max_size=300))
def test_the_budget_stops_retries_while_half_of_it_is_gone(policy, answers):
    retries = Retries(policy, lambda: 0.5)
    tokens = policy.budget
    for answered in answers:
        if answered:
            retries.answered()
            tokens = min(policy.budget, tokens + policy.token_ratio)
        else:
            pause = retries.refused(1, 1, None)
            tokens = max(0.0, tokens - 1)
            assert (pause is None) == (policy.max_attempts == 1 or tokens <= policy.budget / 2)
        assert retries.tokens == pytest.approx(tokens)


def test_the_servers_word_on_when_to_come_back_is_obeyed():
    retries = Retries(RetryPolicy(max_attempts=3))
    assert retries.refused(1, 0, 12.5) == 12.5
    assert retries.refused(2, 0, inf) == inf
    assert retries.refused(3, 0, 0.1) is None


def test_no_policy_never_asks_again():
    assert Retries(None).refused(1, 1, 0.0) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"initial_backoff": 0},
        {"initial_backoff": 2.0},
        {"multiplier": 0.5},
        {"budget": 0},
        {"token_ratio": 0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)
