from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.client.spread import Spread


@given(st.integers(1, 8), st.lists(st.integers(-20, 20), max_size=200))
def test_a_call_takes_the_connection_with_the_fewest_under_way(connections, events):
    """Negative: the call that began so long ago ends, if there is one."""
    spread = Spread(connections)
    under_way = []
    for event in events:
        if event >= 0:
            fewest = min(spread.under_way)
            taken = spread.take()
            assert spread.under_way[taken] == fewest + 1
            under_way.append(taken)
        elif under_way:
            spread.give_back(under_way.pop(event % len(under_way)))
        counted = Counter(under_way)
        assert spread.under_way == [counted[connection] for connection in range(connections)]


def test_equally_busy_ones_take_turns():
    spread = Spread(3)
    order = []
    for _ in range(6):
        order.append(spread.take())
        spread.give_back(order[-1])
    assert sorted(order[:3]) == sorted(order[3:]) == [0, 1, 2]


def test_a_wanted_connection_counts_too():
    spread = Spread(2)
    assert [spread.take(1), spread.take(1), spread.take(), spread.take()] == [1, 1, 0, 0]
