from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.wire.h2.pacing import CALL_SECONDS, READ_LEAST, READ_MOST, TURN_SECONDS, Pace, Purse

MILLISECOND = 1e-3


def read_for(pace, now, until, seconds=0.5 * MILLISECOND, size=100, earned=0.0):
    """How long handling took of what a client sends without pause, and when reading ends."""
    spent = 0.0
    while now < until:
        pace.earn(earned)
        pause = pace.read(size, seconds, now)
        spent += seconds
        now += seconds + pause
    return spent


def test_a_client_that_is_answered_never_waits():
    pace = Pace(Purse(0.0))
    for call in range(10_000):
        assert pace.read(3000, CALL_SECONDS / 4, call * CALL_SECONDS) == 0
        pace.earn(CALL_SECONDS)


def test_large_requests_may_take_long_to_come():
    pace = Pace(Purse(0.0))
    for number in range(64):  # 4 MiB, at a gigabyte a second
        assert pace.read(2**16, 65e-6, number * 65e-6) == 0


def test_what_is_sent_in_vain_takes_a_few_hundredths_of_the_time():
    assert read_for(Pace(Purse(0.0)), 0.0, 100.0) < 100 * 0.04


@given(st.integers(1, 50))
def test_and_however_many_do_it_they_take_no_more(clients):
    purse = Purse(0.0)
    paces = [Pace(purse) for _ in range(clients)]
    next_read, spent = [0.0] * clients, 0.0
    while (now := min(next_read)) < 20:
        who = next_read.index(now)
        purse.waiting = sum(when > now for when in next_read)
        spent += MILLISECOND / 5
        next_read[who] = now + MILLISECOND / 5 + paces[who].read(100, MILLISECOND / 5, now)
    assert spent < 20 * 0.05 + 0.1


def test_a_mistake_now_and_then_costs_nothing_even_while_others_attack():
    purse = Purse(0.0)
    read_for(Pace(purse), 0.0, 1.0)
    pace = Pace(purse)
    for call in range(1000):
        assert pace.read(500, 0.00005, 1.0) == 0
        pace.earn(0.0 if call % 5 == 4 else CALL_SECONDS)


def test_what_keeps_others_waiting_is_not_covered_by_what_is_saved_for_all():
    assert Pace(Purse(0.0)).read(60_000, 10 * MILLISECOND, 0.0) > 0.5


def test_the_collector_of_garbage_is_not_the_clients_fault():
    assert Pace(Purse(0.0)).read(100, 10.0, 0.0) < 5


def test_less_is_read_of_who_waits_and_more_step_by_step():
    pace = Pace(Purse(0.0))
    first = pace.appetite
    pace.read(first, 1e-6, 0.0)
    assert pace.appetite == 4 * first
    while pace.read(2**12, MILLISECOND, 0.0) == 0:
        pass
    assert pace.appetite == READ_LEAST


def test_what_is_read_at_a_time_takes_a_turn():
    pace = Pace(Purse(0.0))
    for _ in range(100):
        pace.earn(1.0)
        pace.read(pace.appetite, pace.appetite * 1e-7, 0.0)
    assert 0.9 * TURN_SECONDS < pace.appetite * 1e-7 <= TURN_SECONDS


@given(st.lists(st.tuples(st.integers(1, 2**18), st.floats(0, 1), st.floats(0, 0.01)), max_size=100))
def test_no_wait_is_longer_than_clients_bear_and_something_is_always_read(steps):
    pace, now = Pace(Purse(0.0)), 0.0
    for size, seconds, earned in steps:
        pace.earn(earned)
        now += seconds
        assert 0 <= pace.read(size, seconds, now) <= 5
        assert READ_LEAST <= pace.appetite <= READ_MOST
