from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.workers.backoff import FIRST_SECONDS, MOST_SECONDS, STABLE_SECONDS, Backoff


@given(st.lists(st.floats(0, STABLE_SECONDS, exclude_max=True), min_size=1, max_size=200))
def test_pauses_grow_from_nothing_to_the_most_while_lives_are_short(lifetimes):
    backoff = Backoff()
    pauses = [backoff.next_pause(lifetime) for lifetime in lifetimes]
    assert pauses[0] == 0
    assert pauses[1:] == [min(FIRST_SECONDS * 2**number, MOST_SECONDS) for number in range(len(pauses) - 1)]


@given(st.integers(0, 2000), st.floats(STABLE_SECONDS, 1e9))
def test_a_long_life_makes_good(failures, lifetime):
    backoff = Backoff(failures)
    assert backoff.next_pause(lifetime) == 0
    assert backoff.next_pause(0.0) == FIRST_SECONDS
