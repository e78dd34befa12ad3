from collections import deque
from math import inf

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from conveyor_server.core.batch import Batch, Entry
from conveyor_server.core.batch_queue import MOST_ENTRIES, BatchQueue, LevelPolicy, QueuePolicy
from conveyor_server.core.errors import DeadlineExceeded, Overloaded, ServerFailed, WaitExpired

RUN_SIZE, MAX_ROWS = 4, 12


class RecordingReply:
    def __init__(self):
        self.outcomes = []

    def answer(self, outputs):
        self.outcomes.append(outputs[0])

    def fail(self, error):
        self.outcomes.append(error)


def entry(rows, first=0, **others):
    return Entry((np.arange(first, first + rows, dtype=np.float32)[:, None],), rows, RecordingReply(), **others)


def queue(**others):
    return BatchQueue(RUN_SIZE, QueuePolicy(**{"max_rows": MAX_ROWS, "max_bytes": 10**6, **others}))


def test_whole_entries_up_to_the_run_size_in_order_of_arrival():
    waiting = queue()
    entries = [entry(2), entry(1), entry(2), entry(1)]
    for one in entries:
        waiting.push(one)
    assert [(e, a, b) for e, a, b in waiting.next_batch(0).slices] == [(entries[0], 0, 2), (entries[1], 0, 1)]
    assert [e for e, _, _ in waiting.next_batch(0).slices] == entries[2:]
    assert waiting.next_batch(0) is None


def test_many_small_entries_do_not_share_one_batch():
    """All that share it are answered at once, and others wait meanwhile."""
    waiting = BatchQueue(2 * MOST_ENTRIES, QueuePolicy(max_rows=3 * MOST_ENTRIES, max_bytes=10**6))
    for _ in range(MOST_ENTRIES + 1):
        waiting.push(entry(1))
    waiting.push(entry(MOST_ENTRIES))
    assert [len(waiting.next_batch(0).slices) for _ in range(2)] == [MOST_ENTRIES, 2]


def test_entries_of_different_inner_shapes_do_not_share_a_batch():
    waiting = queue()
    entries = [Entry((np.zeros((1, width), np.float32),), 1, RecordingReply()) for width in (2, 2, 3, 2)]
    for one in entries:
        waiting.push(one)
    batches = [waiting.next_batch(0) for _ in range(3)]
    assert [[one for one, _, _ in batch.slices] for batch in batches] == [entries[:2], entries[2:3], entries[3:]]
    assert [batch.gather()[0].shape for batch in batches] == [(2, 2), (1, 3), (1, 2)]


def test_an_entry_larger_than_a_run_is_split_and_answered_whole():
    waiting = queue()
    large, small = entry(10), entry(2, first=100)
    waiting.push(large)
    waiting.push(small)
    batches = [waiting.next_batch(0) for _ in range(3)]
    assert [batch.rows for batch in batches] == [4, 4, 4]
    for batch in reversed(batches):  # runners finish in any order
        batch.scatter([batch.gather()[0] * 2])
    np.testing.assert_array_equal(large.reply.outcomes[0], large.inputs[0] * 2)
    np.testing.assert_array_equal(small.reply.outcomes[0], small.inputs[0] * 2)
    assert len(large.reply.outcomes) == len(small.reply.outcomes) == 1


def test_a_run_of_one_entry_is_a_view_of_its_rows_and_so_is_its_answer():
    waiting = queue()
    one = entry(3)
    waiting.push(one)
    batch = waiting.next_batch(0)
    assert batch.gather()[0] is one.inputs[0]
    outputs = [np.ones((3, 1), np.float32)]
    batch.scatter(outputs)
    assert np.shares_memory(one.reply.outcomes[0], outputs[0])


@pytest.mark.parametrize(("limits", "what"), [({"max_rows": 4}, "4 rows"), ({"max_bytes": 16}, "16 bytes")])
def test_what_does_not_fit_is_refused_at_once_and_changes_nothing(limits, what):
    waiting = queue(**limits)
    waiting.push(entry(3))
    with pytest.raises(Overloaded, match=f"Exceeds maximum queue size.*of {what}.*2 rows and 8 bytes came"):
        waiting.push(entry(2))
    waiting.push(entry(1))
    assert (waiting.rows, waiting.bytes) == (4, 16)


def test_expired_work_is_never_run():
    waiting = queue()
    late, good = entry(1, deadline=5.0), entry(1, deadline=5.1)
    waiting.push(late)
    waiting.push(good)
    assert [e for e, _, _ in waiting.next_batch(5.0).slices] == [good]
    assert isinstance(late.reply.outcomes[0], DeadlineExceeded)


def test_the_rest_of_an_expired_large_entry_is_not_run():
    waiting = queue()
    large = entry(8, deadline=5.0)
    waiting.push(large)
    first = waiting.next_batch(4.0)
    assert waiting.next_batch(6.0) is None
    first.scatter([first.gather()[0]])
    assert [type(outcome) for outcome in large.reply.outcomes] == [DeadlineExceeded]
    assert (waiting.rows, waiting.bytes) == (0, 0)


def test_a_failed_run_fails_its_own_entries_once_and_frees_the_rows_they_still_have_waiting():
    waiting = queue()
    large, other = entry(6), entry(3)
    waiting.push(large)
    waiting.push(other)
    waiting.next_batch(0).fail(ServerFailed("no"))
    batch = waiting.next_batch(0)
    assert [e for e, _, _ in batch.slices] == [other]
    batch.scatter([batch.gather()[0]])
    assert [type(outcome) for outcome in large.reply.outcomes] == [ServerFailed]
    assert (waiting.rows, waiting.bytes) == (0, 0)


def test_a_reply_that_breaks_does_not_touch_its_batch_mates(caplog):
    class BrokenReply(RecordingReply):
        def answer(self, outputs):
            raise RuntimeError("a bug")

    broken = Entry((np.zeros((1, 1), np.float32),), 1, BrokenReply())
    good = entry(1)
    Batch([(broken, 0, 1), (good, 0, 1)], 2).scatter([np.ones((2, 1))])
    assert isinstance(broken.reply.outcomes[0], ServerFailed)
    assert good.reply.outcomes[0].tolist() == [[1.0]]
    assert "This is a bug" in caplog.text


def test_a_delay_holds_back_until_the_batch_is_full_or_the_oldest_has_waited():
    waiting = queue(max_delay=2.0)
    waiting.push(entry(1, arrived=10.0))
    waiting.push(entry(1, arrived=11.0))
    assert waiting.next_batch(11.9) is None
    assert waiting.due_at() == 12.0
    assert waiting.next_batch(12.0).rows == 2
    assert waiting.due_at() is None
    waiting.push(entry(RUN_SIZE, arrived=20.0))
    assert waiting.due_at() == -inf
    assert waiting.next_batch(20.0).rows == RUN_SIZE


def test_a_delay_counts_from_the_oldest_entry_that_is_still_wanted():
    waiting = queue(max_delay=2.0)
    gone = entry(1, arrived=10.0)
    waiting.push(gone)
    waiting.push(entry(1, arrived=11.0))
    waiting.discard(gone)
    assert waiting.due_at() == 13.0


class QueueAgainstModel(RuleBasedStateMachine):
    """Any mix of arrivals, cancels, expiries, runs that end well or badly, in any order."""

    queued = Bundle("queued")
    running = Bundle("running")

    def __init__(self):
        super().__init__()
        self.queue = BatchQueue(
            RUN_SIZE, QueuePolicy(max_rows=MAX_ROWS, max_bytes=MAX_ROWS * 4, levels=2, default_level=2)
        )
        self.now = 0.0
        self.first = 0
        self.accepted = []
        self.cancelled = set()
        self.batches = deque()

    @rule(target=queued, rows=st.integers(1, 10), patience=st.sampled_from([1.0, 3.0, inf]), priority=st.integers(0, 3))
    def push(self, rows, patience, priority):
        one = entry(rows, self.first, deadline=self.now + patience, priority=priority)
        self.first += rows
        fits = self.queue.rows + rows <= MAX_ROWS
        try:
            self.queue.push(one)
        except Overloaded:
            assert not fits or self.queue.bytes + one.bytes > MAX_ROWS * 4
            return one
        assert fits
        self.accepted.append(one)
        return one

    @rule(one=consumes(queued))
    def cancel(self, one):
        if one in self.accepted and not one.reply.outcomes:
            self.cancelled.add(one)
            self.queue.discard(one)

    @rule(seconds=st.sampled_from([0.5, 2.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(target=running)
    def take(self):
        batch = self.queue.next_batch(self.now)
        if batch is None:
            assert not any(self.alive(one) and one.taken < one.rows for one in self.accepted)
            return None
        assert 0 < batch.rows <= RUN_SIZE
        assert batch.rows == sum(stop - start for _, start, stop in batch.slices)
        for one, _, _ in batch.slices:
            assert one not in self.cancelled
            assert one.deadline > self.now, "expired work was run"
        self.batches.append(batch)
        return batch

    @rule(batch=consumes(running))
    def finish(self, batch):
        if batch is not None:
            batch.scatter([batch.gather()[0] * 2])
            self.batches.remove(batch)

    @rule(batch=consumes(running))
    def break_down(self, batch):
        if batch is not None:
            batch.fail(ServerFailed("no"))
            self.batches.remove(batch)

    def alive(self, one):
        return one not in self.cancelled and not one.reply.outcomes

    @invariant()
    def answers_are_ones_own_rows_given_once(self):
        for one in self.accepted:
            assert len(one.reply.outcomes) <= 1
            if one in self.cancelled:
                assert not one.reply.outcomes
            for outcome in one.reply.outcomes:
                if isinstance(outcome, np.ndarray):
                    np.testing.assert_array_equal(outcome, one.inputs[0] * 2)
                else:
                    assert isinstance(outcome, ServerFailed | DeadlineExceeded)

    @invariant()
    def counts_are_bounded_and_right(self):
        assert 0 <= self.queue.rows <= MAX_ROWS
        waiting = [one for one in self.accepted if one.taken < one.rows]
        assert self.queue.rows == sum(one.rows - one.taken for one in waiting)
        assert self.queue.bytes == sum(one.bytes for one in waiting)

    def teardown(self):
        while self.batches:
            batch = self.batches.popleft()
            batch.scatter([batch.gather()[0] * 2])
        while batch := self.queue.next_batch(self.now):
            batch.scatter([batch.gather()[0] * 2])
        for one in self.accepted:
            assert one in self.cancelled or len(one.reply.outcomes) == 1, "what was accepted was not answered"
        assert (self.queue.rows, self.queue.bytes) == (0, 0)


TestQueueAgainstModel = QueueAgainstModel.TestCase
TestQueueAgainstModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_higher_priorities_are_served_first_and_what_is_no_priority_by_default():
    waiting = queue(levels=3, default_level=2)
    low, default, high, unknown = (entry(1, priority=level) for level in (3, 0, 1, 99))
    for one in (low, default, high, unknown):
        waiting.push(one)
    assert [e for e, _, _ in waiting.next_batch(0).slices] == [high, default, unknown, low]


def test_a_level_has_its_own_limit_of_requests():
    waiting = queue(levels=2, by_level={1: LevelPolicy(max_requests=1)})
    first = entry(1, priority=1)
    waiting.push(first)
    with pytest.raises(Overloaded, match="1 requests of priority 1 wait"):
        waiting.push(entry(1, priority=1))
    waiting.push(entry(1, priority=2))
    waiting.discard(first)
    waiting.push(entry(1, priority=1))
    waiting.next_batch(0)
    waiting.push(entry(1, priority=1))


@pytest.mark.parametrize(
    ("policy", "asked", "waits"),
    [
        (LevelPolicy(), 1.0, inf),
        (LevelPolicy(timeout=5.0), None, 5.0),
        (LevelPolicy(timeout=5.0), 1.0, 5.0),
        (LevelPolicy(timeout=5.0, allow_override=True), 1.0, 1.0),
        (LevelPolicy(timeout=5.0, allow_override=True), 9.0, 5.0),
        (LevelPolicy(allow_override=True), 1.0, 1.0),
        (LevelPolicy(allow_override=True), 0, inf),
    ],
)
def test_who_waits_too_long_is_refused(policy, asked, waits):
    waiting = queue(default=policy)
    one = entry(1, arrived=100.0)
    waiting.push(one, asked)
    assert one.expires == 100 + waits
    if waits != inf:
        assert waiting.next_batch(100 + waits) is None
        assert isinstance(one.reply.outcomes[0], WaitExpired)
        assert str(one.reply.outcomes[0]) == "Request timeout expired"
        assert (waiting.rows, waiting.bytes) == (0, 0)


def test_who_waits_too_long_goes_behind_all_others_where_the_policy_says_so():
    waiting = queue(levels=2, default=LevelPolicy(timeout=5.0, delay_on_timeout=True))
    late, other = entry(1, priority=1), entry(1, priority=2, arrived=4.0)
    waiting.push(late)
    waiting.push(other)
    assert [e for e, _, _ in waiting.next_batch(6.0).slices] == [other, late]


def test_a_preferred_size_ends_the_holding_back():
    waiting = queue(max_delay=2.0, preferred_rows=(2, 3))
    waiting.push(entry(1, arrived=10.0))
    assert waiting.next_batch(10.0) is None
    waiting.push(entry(1, arrived=10.5))
    assert waiting.due_at() == -inf
    assert waiting.next_batch(10.5).rows == 2
    waiting.push(entry(1, arrived=11.0))
    assert waiting.due_at() == 13.0
    assert waiting.next_batch(13.0).rows == 1
