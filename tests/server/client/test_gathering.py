from collections import Counter
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from conveyor_server.client.gathering import MAX_BYTES, Gathering, Member

ROWS = 6


def member(rows=1, size=10, deadline=inf):
    return Member(None, rows, size, deadline)


def gathering(*, delayed=False, connections=1):
    return Gathering(ROWS, delayed=delayed, connections=connections)


def sizes(requests):
    return [[one.rows for one in request.members] for request in requests]


def test_a_call_leaves_at_once_and_those_that_come_meanwhile_leave_together():
    calls = gathering()
    (first,) = calls.join("a", member(1), 100)
    assert [calls.join("a", member(rows), 100) for rows in (2, 1, 1)] == [[], [], []]
    (second,) = calls.arrived(first)
    assert sizes([first, second]) == [[1], [2, 1, 1]]
    assert calls.arrived(second) == []


def test_each_connection_takes_one_before_others_wait():
    calls = gathering(connections=2)
    assert len(calls.join("a", member(), 100)) == len(calls.join("a", member(), 100)) == 1
    assert calls.join("a", member(), 100) == []


def test_kinds_do_not_wait_for_each_other():
    calls = gathering()
    assert len(calls.join("a", member(), 100)) == len(calls.join("b", member(), 100)) == 1


def test_what_is_full_leaves_at_once():
    calls = gathering()
    calls.join("a", member(), 100)
    assert calls.join("a", member(4), 100) == []
    assert sizes(calls.join("a", member(2), 100)) == [[4, 2]]
    assert calls.join("a", member(5), 100) == []
    assert sizes(calls.join("a", member(2), 100)) == [[5]]  # and the two rows wait
    assert sizes(calls.join("a", member(1), 3)) == [[2, 1]]  # what the model takes is a limit, too


def test_bytes_are_a_limit():
    calls = gathering()
    calls.join("a", member(), 100)
    assert calls.join("a", member(1, MAX_BYTES - 10), 100) == []
    assert sizes(calls.join("a", member(1, 11), 100)) == [[1]]
    assert not calls.fits(1, MAX_BYTES, 100)


def test_what_leaves_no_room_for_another_does_not_gather():
    calls = gathering()
    assert [rows for rows in range(8) if calls.fits(rows, 1, 100)] == [1, 2, 3, 4, 5]
    assert [rows for rows in range(8) if calls.fits(rows, 1, 3)] == [1, 2]
    assert not calls.fits(1, 1, 0)  # a model without a batch axis


def test_a_delay_holds_the_first_until_its_time_is_over():
    calls = gathering(delayed=True)
    one, other = member(), member(2)
    assert calls.join("a", one, 100) == calls.join("a", other, 100) == []
    assert sizes(calls.depart(one.request)) == [[1, 2]]
    assert calls.depart(one.request) == []


def test_the_deadline_is_the_latest():
    calls = gathering(delayed=True)
    members = [member(deadline=deadline) for deadline in (3, 9, 5)]
    for one in members:
        calls.join("a", one, 100)
    assert members[0].request.deadline == 9
    calls.give_up(members[1])
    assert members[0].request.deadline == 5


class Calls(RuleBasedStateMachine):
    """Against what can be said of any sequence of events."""

    @initialize(delayed=st.booleans(), connections=st.integers(1, 3))
    def start(self, delayed, connections):
        self.delayed, self.connections = delayed, connections
        self.calls = gathering(delayed=delayed, connections=connections)
        self.waiting = {}
        self.under_way = {}
        self.came = []
        self.left = Counter()

    def leave(self, requests):
        for request in requests:
            assert request.members
            assert len({one.request for one in request.members}) == 1
            assert sum(one.rows for one in request.members) == request.rows <= ROWS
            assert [self.came.index(one) for one in request.members] == sorted(
                self.came.index(one) for one in request.members
            )
            self.under_way[request] = list(request.members)
            for one in request.members:
                assert self.waiting.pop(one) == request.kind
                self.left[one] += 1

    @rule(kind=st.sampled_from("ab"), rows=st.integers(1, ROWS - 1))
    def join(self, kind, rows):
        one = member(rows)
        self.came.append(one)
        self.waiting[one] = kind
        self.leave(self.calls.join(kind, one, 100))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def depart(self, data):
        one = data.draw(st.sampled_from(list(self.waiting)))
        if self.delayed:
            self.leave(self.calls.depart(one.request))
            assert one not in self.waiting

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def arrive(self, data):
        request = data.draw(st.sampled_from(list(self.under_way)))
        assert self.under_way.pop(request) == request.members
        self.leave(self.calls.arrived(request))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up_waiting(self, data):
        one = data.draw(st.sampled_from(list(self.waiting)))
        del self.waiting[one]
        others = [other for other in one.request.members if other is not one]
        self.calls.give_up(one)
        assert one.request.members == others

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def give_up_under_way(self, data):
        request = data.draw(st.sampled_from(list(self.under_way)))
        for number, one in enumerate(request.members, 1):
            assert not request.abandoned
            self.calls.give_up(one)
            assert request.abandoned == (number == len(request.members))
        self.leave(self.calls.arrived(request))
        del self.under_way[request]

    @invariant()
    def nobody_is_sent_twice(self):
        if hasattr(self, "left"):
            assert all(count == 1 for count in self.left.values())

    @invariant()
    def without_a_delay_calls_wait_only_while_connections_are_busy(self):
        if hasattr(self, "delayed") and not self.delayed:
            for kind in self.waiting.values():
                assert sum(request.kind == kind for request in self.under_way) >= self.connections

    def teardown(self):
        if not hasattr(self, "calls"):
            return
        while self.waiting or self.under_way:
            if self.delayed and self.waiting:
                self.leave(self.calls.depart(next(iter(self.waiting)).request))
            else:
                request = next(iter(self.under_way))
                del self.under_way[request]
                self.leave(self.calls.arrived(request))
        assert not self.calls._kinds, "what nobody needs any more is forgotten"


Calls.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestCalls = Calls.TestCase
