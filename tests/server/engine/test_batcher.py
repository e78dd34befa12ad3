import asyncio
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor_server.core.batch_queue import QueuePolicy
from conveyor_server.core.errors import DeadlineExceeded, Draining, Overloaded, ServerFailed
from conveyor_server.engine.batcher import CAUTION, Batcher
from support.puppets import PuppetModel, Runs, Slot

LIMITS = QueuePolicy(max_rows=64, max_bytes=10**6)


def rows(count, first=0):
    return (np.arange(first, first + count, dtype=np.float32)[:, None],)


def submit(batcher, count, *, first=0, deadline=inf):
    slot = Slot()
    slot.inputs = rows(count, first)
    slot.entry = batcher.submit(slot.inputs, count, deadline, slot)
    return slot


def assert_own_rows(slot):
    np.testing.assert_array_equal(slot.outcome[0], slot.inputs[0] * 2)


@pytest.fixture(params=["in place", "in a thread"])
def free_model(request):
    return PuppetModel(free=True, in_place=request.param == "in place")


async def test_rule_1_a_batch_forms_at_once_when_a_runner_is_free_and_from_what_waits_when_it_gets_free():
    model, runs = PuppetModel(run_size=8), Runs()
    batcher = Batcher(model, LIMITS, runs)
    first = submit(batcher, 1)
    await model.began()  # nothing else had to come, no timer had to ring
    others = [submit(batcher, 2) for _ in range(5)]
    model.free()
    for slot in [first, *others]:
        await slot.wait()
        assert_own_rows(slot)
    assert runs.rows == [1, 8, 2]


async def test_rule_1_what_arrives_in_one_turn_of_the_loop_shares_a_run(free_model):
    runs = Runs()
    batcher = Batcher(free_model, LIMITS, runs)
    slots = [submit(batcher, 1, first=number) for number in range(5)]
    for slot in slots:
        await slot.wait()
        assert_own_rows(slot)
    assert runs.rows == [5]


async def test_rule_1_so_does_what_arrives_in_the_turn_after_unless_the_run_is_full(free_model):
    runs = Runs()
    batcher = Batcher(free_model, LIMITS, runs)
    slots = [submit(batcher, 3)]
    await asyncio.sleep(0)  # requests in other sockets are read now
    slots.append(submit(batcher, 5))
    await asyncio.sleep(0)
    slots.append(submit(batcher, 4))
    for slot in slots:
        await slot.wait()
        assert_own_rows(slot)
    assert runs.rows == [8, 4]


async def test_rule_1_a_delay_is_kept_when_asked_for_and_cut_short_by_a_full_batch():
    model, runs = PuppetModel(free=True, in_place=True), Runs()
    batcher = Batcher(model, QueuePolicy(64, 10**6, max_delay=60.0), runs)
    early = submit(batcher, 1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not early.outcomes
    late = submit(batcher, 7)
    await early.wait()
    await late.wait()
    assert runs.rows == [8]


async def test_rule_1_a_delay_ends_by_itself():
    batcher = Batcher(PuppetModel(free=True, in_place=True), QueuePolicy(64, 10**6, max_delay=0.001), Runs())
    slot = submit(batcher, 1)
    await slot.wait()
    assert_own_rows(slot)


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    data=st.data(),
    runners=st.integers(1, 3),
)
def test_rules_2_and_3_whoever_cancels_or_expires_all_others_get_their_own_rows(sizes, data, runners):
    indices = st.sets(st.sampled_from(range(len(sizes))))
    cancel_queued, cancel_late, expire = data.draw(indices), data.draw(indices), data.draw(indices)

    async def scenario():
        now = 100.0
        model = PuppetModel(run_size=4)
        limits = QueuePolicy(max_rows=1000, max_bytes=10**6)
        batcher = Batcher(model, limits, Runs(), runners=runners, clock=lambda: now)
        blockers = [submit(batcher, 4, first=1000 * number) for number in range(runners)]
        for _ in blockers:
            await model.began()
        slots = [
            submit(batcher, size, first=10 * number, deadline=101.0 if number in expire else inf)
            for number, size in enumerate(sizes)
        ]
        for number in cancel_queued:
            batcher.discard(slots[number].entry)
        now = 102.0
        model.permit()  # one blocker ends, and a run of what is wanted begins, if anything is
        await asyncio.wait([asyncio.create_task(slot.wait()) for slot in blockers], return_when="FIRST_COMPLETED")
        early = {number for number in cancel_late if not slots[number].outcomes}
        for number in early:
            batcher.discard(slots[number].entry)
        model.free()
        await asyncio.wait_for(batcher.drain(), 30)
        batcher.close()
        for slot in blockers:
            assert_own_rows(slot)
        for number, slot in enumerate(slots):
            if number in cancel_queued or number in early:
                assert not slot.outcomes
            elif number in expire:
                assert isinstance(slot.outcome, DeadlineExceeded)
            else:
                assert_own_rows(slot)
        assert batcher.queued_rows == 0

    asyncio.run(scenario())


async def test_rule_3_a_failed_run_fails_only_its_own_entries_and_the_next_run_is_fine(caplog):
    model = PuppetModel(run_size=2)
    batcher = Batcher(model, LIMITS, Runs())
    doomed = [submit(batcher, 1), submit(batcher, 1)]
    await model.began()
    fine = submit(batcher, 2)
    model.failing = True
    model.permit()
    for slot in doomed:
        assert isinstance(await slot.wait(), ServerFailed)
        assert "puppet" not in str(slot.outcome), "details of a failure belong to the log, not to the client"
    await model.began()
    model.failing = False
    model.permit()
    await fine.wait()
    assert_own_rows(fine)
    assert "the puppet was told to fail" in caplog.text


async def test_rule_3_the_same_in_the_loops_own_thread():
    model = PuppetModel(in_place=True)
    batcher = Batcher(model, LIMITS, Runs())
    model.failing = True
    assert isinstance(await submit(batcher, 1).wait(), ServerFailed)
    model.failing = False
    slot = submit(batcher, 1)
    await slot.wait()
    assert_own_rows(slot)


async def test_rule_4_limits_count_rows_and_bytes_and_refuse_at_once():
    model = PuppetModel()
    batcher = Batcher(model, QueuePolicy(max_rows=8, max_bytes=24), Runs())
    running = submit(batcher, 8 - 2)
    await model.began()
    waiting = submit(batcher, 6)
    with pytest.raises(Overloaded, match=r"6 of 8 rows and 24 of 24 bytes wait"):
        submit(batcher, 1)
    batcher.discard(waiting.entry)  # a place given up is free at once
    last = submit(batcher, 2)
    model.free()
    for slot in (running, last):
        await slot.wait()
        assert_own_rows(slot)


async def test_rule_5_work_that_cannot_be_done_in_time_is_refused_at_the_door():
    now = 100.0
    model = PuppetModel(run_size=4, rows_per_second=10.0)
    batcher = Batcher(model, LIMITS, Runs(), clock=lambda: now)
    running = submit(batcher, 4)
    await model.began()
    with pytest.raises(Overloaded, match=r"deadline cannot be met: the answer may take 625 ms, and 600 ms are left"):
        submit(batcher, 1, deadline=100.6)  # half a second, and something for what is not foreseen
    accepted = submit(batcher, 1, deadline=100.7)
    model.free()
    await running.wait()
    await accepted.wait()
    assert_own_rows(accepted)


class SlowDay:
    """A clock, and a model whose runs of 4 rows take half a second on it."""

    def __init__(self):
        self.now = 100.0
        day = self

        class HalfASecond(PuppetModel):
            def run(self, inputs):
                day.now += 0.5
                return super().run(inputs)

        model = HalfASecond(run_size=4, in_place=True, rows_per_second=8.0)
        self.batcher = Batcher(model, QueuePolicy(max_rows=1000, max_bytes=10**6), Runs(), clock=lambda: day.now)


async def test_rule_5_the_estimate_counts_what_keeps_a_runner_from_its_next_run():
    day = SlowDay()
    batcher = day.batcher
    slots = [submit(batcher, 4) for _ in range(40)]
    while batcher.queued_rows > 20:
        day.now += 0.5  # others' requests are read
        await asyncio.sleep(0)
    eight_a_second, four_a_second = (CAUTION * (batcher.queued_rows + 4) / rate for rate in (8, 4))
    assert eight_a_second < 6 < four_a_second
    with pytest.raises(Overloaded):
        submit(batcher, 4, deadline=day.now + 6)
    for slot in slots:
        await slot.wait()


async def test_rule_5_the_estimate_does_not_count_when_nothing_waited():
    day = SlowDay()
    first, given_up = submit(day.batcher, 4), submit(day.batcher, 4)
    for _ in range(10):
        if not first.outcomes:
            await asyncio.sleep(0)
    day.batcher.discard(given_up.entry)
    for _ in range(3):
        await asyncio.sleep(0)
    day.now += 3600
    await submit(day.batcher, 4).wait()
    slots = [submit(day.batcher, 4), submit(day.batcher, 4, deadline=day.now + CAUTION * 8 / 7.6)]
    for slot in slots:
        await slot.wait()
        assert_own_rows(slot)


async def test_rule_5_an_idle_server_takes_any_work_however_old_its_estimate():
    batcher = Batcher(PuppetModel(free=True, in_place=True, rows_per_second=1e-9), LIMITS, Runs())
    slot = submit(batcher, 1, deadline=asyncio.get_running_loop().time() + 10)
    await slot.wait()
    assert_own_rows(slot)


async def test_rule_6_a_large_request_is_split_over_the_runners_and_answered_whole():
    model, runs = PuppetModel(run_size=8, free=True), Runs()
    batcher = Batcher(model, LIMITS, runs, runners=3)
    slot = submit(batcher, 50)
    await slot.wait()
    assert_own_rows(slot)
    assert sorted(runs.rows) == [2, 8, 8, 8, 8, 8, 8]


async def test_rule_7_drain_answers_what_was_accepted_and_refuses_the_rest():
    model = PuppetModel()
    batcher = Batcher(model, LIMITS, Runs())
    slots = [submit(batcher, 5, first=number) for number in range(4)]
    await model.began()
    draining = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0)
    with pytest.raises(Draining, match="shutting down"):
        submit(batcher, 1)
    assert not draining.done()
    model.free()
    await draining
    for slot in slots:
        assert_own_rows(slot)


async def test_drain_of_an_idle_or_wholly_cancelled_queue_returns():
    model = PuppetModel()
    batcher = Batcher(model, LIMITS, Runs())
    running, waiting = submit(batcher, 8), submit(batcher, 8)
    await model.began()
    batcher.discard(waiting.entry)
    batcher.discard(running.entry)  # a run that has begun cannot be stopped; its answer is dropped
    model.permit()
    await asyncio.wait_for(batcher.drain(), 30)
    assert not running.outcomes
    assert not waiting.outcomes


async def test_drain_holds_nothing_back():
    batcher = Batcher(PuppetModel(in_place=True), QueuePolicy(64, 10**6, max_delay=60.0), Runs())
    slot = submit(batcher, 1)
    await asyncio.wait_for(batcher.drain(), 30)
    assert_own_rows(slot)


async def test_drain_ends_when_the_last_request_is_given_up():
    model = PuppetModel()
    batcher = Batcher(model, LIMITS, Runs())
    waiting = submit(batcher, 8)
    draining = asyncio.create_task(batcher.drain())
    batcher.discard(waiting.entry)
    await asyncio.wait_for(draining, 30)


async def test_a_model_whose_run_takes_for_ever_does_not_hold_up_another():
    slow, fast = PuppetModel(), PuppetModel(in_place=True)
    slow_batcher, fast_batcher = Batcher(slow, LIMITS, Runs()), Batcher(fast, LIMITS, Runs())
    stuck = submit(slow_batcher, 8)
    await slow.began()
    for _ in range(20):
        slot = submit(fast_batcher, 1)
        await slot.wait()
        assert_own_rows(slot)
    assert not stuck.outcomes
    slow.free()
    await stuck.wait()


async def test_models_in_the_loops_thread_take_turns():
    """However long the queue of one is, another waits for one run of it, not for all."""
    order = []

    class Noting(PuppetModel):
        def __init__(self, name):
            super().__init__(run_size=1, in_place=True)
            self.name = name

        def run(self, inputs):
            order.append(self.name)
            return super().run(inputs)

    busy, quiet = Batcher(Noting("busy"), LIMITS, Runs()), Batcher(Noting("quiet"), LIMITS, Runs())
    slots = [submit(busy, 1) for _ in range(20)] + [submit(quiet, 1) for _ in range(3)]
    for slot in slots:
        await slot.wait()
    assert order[:6] == ["busy", "quiet"] * 3
