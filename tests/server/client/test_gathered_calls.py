"""Calls that travel together, through the real steps and drivers, against a server without a socket.

For asyncio in virtual time, so that any order of arrivals, answers, deadlines and cancels can be tried; for threads
with a server that answers when the test says so.
"""

import asyncio
import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor_server.client.asking import Asking, Pause, Send
from conveyor_server.client.driving import drive, drive_async
from conveyor_server.client.errors import CallError, DeadlineExceeded, InvalidRequest, error_of
from conveyor_server.client.gathering import Gathering
from conveyor_server.client.inference import Inference
from conveyor_server.client.model_descriptions import ModelDescriptions
from conveyor_server.client.procedures import Procedures
from conveyor_server.client.retries import Retries, RetryPolicy
from conveyor_server.client.task_gathering import TaskGathering
from conveyor_server.client.thread_gathering import ThreadGathering
from support.puppet_server import DOUBLE, POISON, PuppetServer
from support.virtual_time import run_in_virtual_time

ROWS = 8


class CountedGathering(Gathering):
    """Tells a test of each call that came."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.came = threading.Semaphore(0)

    def join(self, *args):
        leaving = super().join(*args)
        self.came.release()
        return leaving


class Client:
    """The parts of a client that gathers, put together as `Client` and `AsyncClient` do."""

    def __init__(self, clock, *, delay, connections):
        self.server = PuppetServer()
        self.gathering = CountedGathering(ROWS, delayed=delay > 0, connections=connections)
        self.asking = Asking("puppet", 10.0, Retries(RetryPolicy(), lambda: 0.5), clock)
        descriptions = ModelDescriptions(self.asking)
        self.inference = Inference(self.asking, descriptions, self.gathering, delay)
        self.procedures = Procedures(self.asking, descriptions, self.inference)

    def predict(self, images, timeout=None, **options):
        outputs, request_id = options.get("outputs"), options.get("request_id", "")
        return self.run(self.procedures.predict("double", images, None, timeout, request_id, outputs))


class TaskClient(Client):
    def __init__(self, *, delay=0.0, connections=1, latencies=lambda: 0.5):
        super().__init__(asyncio.get_running_loop().time, delay=delay, connections=connections)
        self.latencies = latencies
        self.under_way = self.most_under_way = 0
        self.gatherer = TaskGathering(
            self.gathering, delay, self.asking, lambda request: self.run(self.inference.send_gathered(request))
        )

    async def run(self, steps):
        return await drive_async(steps, self.take)

    async def take(self, step):
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if not isinstance(step, Send):
            return await self.gatherer.join(step)
        if step.method.name != "ModelInfer":
            return self.server.answer(step)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            async with asyncio.timeout(step.timeout):
                await asyncio.sleep(self.latencies())
        except TimeoutError:
            raise error_of("DEADLINE_EXCEEDED", "Deadline Exceeded", "puppet") from None
        finally:
            self.under_way -= 1
        return self.server.answer(step)


def images(number, rows=1):
    return np.full((rows, 2), float(number), np.float32)


async def ask(client, number, rows=1, **options):
    answer = await client.predict(images(number, rows), **options)
    np.testing.assert_array_equal(answer, images(number * 2, rows))


def in_virtual_time(test):
    def run():
        run_in_virtual_time(test())

    return run


@in_virtual_time
async def test_what_comes_while_a_request_is_under_way_goes_together():
    client = TaskClient()
    await client.run(client.procedures.describe("double", None, None))
    await asyncio.gather(*(ask(client, number) for number in range(6)))
    assert client.server.rows == [1, 5]
    assert asyncio.get_running_loop().time() == pytest.approx(1.0)
    assert client.most_under_way == 1


@in_virtual_time
async def test_each_connection_has_one_under_way():
    client = TaskClient(connections=2)
    await asyncio.gather(*(ask(client, number) for number in range(7)))
    assert client.server.rows == [1, 1, 5]
    assert client.most_under_way == 2


@in_virtual_time
async def test_a_delay_collects_from_an_idle_client():
    client = TaskClient(delay=0.25)
    await asyncio.gather(*(ask(client, number) for number in range(5)))
    assert client.server.rows == [5]
    assert asyncio.get_running_loop().time() == pytest.approx(0.75)


@in_virtual_time
async def test_the_delay_counts_from_the_first():
    client = TaskClient(delay=0.25)

    async def later(number):
        await asyncio.sleep(number * 0.1)
        await ask(client, number)

    await asyncio.gather(*(later(number) for number in range(5)))
    assert client.server.rows == [3, 2]


@in_virtual_time
async def test_the_delay_goes_on_when_the_first_gives_up():
    client = TaskClient(delay=0.25)
    first = asyncio.create_task(ask(client, 1))
    second = asyncio.create_task(ask(client, 2))
    await asyncio.sleep(0.1)
    first.cancel()
    await second
    assert client.server.rows == [1]
    assert asyncio.get_running_loop().time() == pytest.approx(0.75)


@in_virtual_time
async def test_calls_with_other_wishes_do_not_share():
    client = TaskClient(delay=0.25)
    await asyncio.gather(
        ask(client, 1),
        ask(client, 2),
        ask(client, 3, outputs="y"),
        ask(client, 4, request_id="mine"),
        ask(client, 5, 8),
    )
    assert sorted(client.server.rows) == [1, 1, 2, 8]


@in_virtual_time
async def test_what_was_sent_is_what_the_array_held_at_the_time_of_the_call():
    client = TaskClient(delay=0.25)
    array = images(1)
    call = asyncio.create_task(client.predict(array))
    await asyncio.sleep(0.1)
    array[:] = 7
    assert (await call).tolist() == [[2, 2]]


@in_virtual_time
async def test_a_call_without_the_time_for_the_delay_goes_at_once():
    client = TaskClient(delay=2.0)
    await asyncio.gather(ask(client, 1), ask(client, 2, timeout=1.0))
    assert client.server.rows == [1, 1]
    assert client.server.timeouts[-2:] == [1.0, 8.0]


@in_virtual_time
async def test_the_request_has_the_latest_deadline_and_each_caller_its_own():
    client = TaskClient(delay=0.25, latencies=lambda: 3.0)
    outcomes = await asyncio.gather(
        *(ask(client, number, timeout=timeout) for number, timeout in enumerate([1.0, 9.0, 2.0])),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded, type(None), DeadlineExceeded]
    assert client.server.timeouts[-1] == 8.75


@in_virtual_time
async def test_a_request_that_nobody_waits_for_is_cancelled_and_makes_room():
    client = TaskClient(latencies=lambda: 5.0)
    alone = asyncio.create_task(ask(client, 1))
    await asyncio.sleep(1)
    together = [asyncio.create_task(ask(client, number)) for number in (2, 3)]
    await asyncio.sleep(4.5)
    assert (alone.done(), client.under_way) == (True, 1)
    waiting = asyncio.create_task(ask(client, 4))
    await asyncio.sleep(0.25)
    for task in together:
        task.cancel()
    await waiting
    assert asyncio.get_running_loop().time() == pytest.approx(10.75)
    assert client.server.rows == [1, 1]


@in_virtual_time
async def test_a_request_that_is_cancelled_before_it_was_sent_makes_room():
    client = TaskClient(delay=0.25)
    await client.run(client.procedures.describe("double", None, None))
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(ask(client, 1))
    # In the turn of the loop in which the delay is over, and just before it.
    loop.call_at(0.25 - 5e-10, task.cancel)
    await asyncio.wait([task])
    assert task.cancelled()
    await client.gatherer.close()
    assert (client.server.rows, client.gathering._kinds) == ([], {})


@in_virtual_time
async def test_a_bad_member_harms_nobody():
    client = TaskClient(delay=0.25)
    outcomes = await asyncio.gather(*(ask(client, number) for number in (1, POISON, 3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), InvalidRequest, type(None)]
    assert client.server.rows == [3, 1, 1, 1]


@in_virtual_time
async def test_a_model_that_takes_fewer_rows_than_it_did_gets_fewer():
    client = TaskClient(delay=0.25)
    await client.run(client.procedures.describe("double", None, None))
    client.server.spec = dataclasses.replace(DOUBLE, max_batch_size=2)
    for expected in ([3, 1, 1, 1], [2, 1]):
        client.server.requests.clear()
        await asyncio.gather(*(ask(client, number) for number in range(3)))
        assert client.server.rows == expected


@in_virtual_time
async def test_a_server_that_takes_smaller_messages_gets_smaller_ones():
    client = TaskClient(delay=0.25)
    client.server.failures = [error_of("RESOURCE_EXHAUSTED", "too large", "puppet")]
    for expected in ([6, 1, 1, 1, 1, 1, 1], [3, 3]):
        client.server.requests.clear()
        await asyncio.gather(*(ask(client, number) for number in range(6)))
        assert client.server.rows == expected


@in_virtual_time
async def test_a_bad_call_that_travelled_alone_is_not_asked_twice():
    client = TaskClient()
    with pytest.raises(InvalidRequest, match="poison"):
        await ask(client, POISON)
    assert client.server.rows == [1]


@pytest.mark.parametrize("code", ["INTERNAL", "RESOURCE_EXHAUSTED"])
def test_a_failure_that_one_member_may_have_caused_is_not_shared(code):
    async def run():
        client = TaskClient(delay=0.25)
        client.server.failures = [error_of(code, "too much", "puppet")]
        await asyncio.gather(*(ask(client, number) for number in range(3)))
        assert client.server.rows == [3, 1, 1, 1]

    run_in_virtual_time(run())


@in_virtual_time
async def test_a_refusal_is_asked_again_for_all_and_given_to_each_in_the_end():
    client = TaskClient(delay=0.25)
    client.server.failures = [error_of("UNAVAILABLE", "full", "puppet")]
    await asyncio.gather(*(ask(client, number) for number in range(3)))
    assert client.server.rows == [3, 3]
    client.server.failures = [error_of("UNAVAILABLE", "full", "puppet") for _ in range(8)]
    outcomes = await asyncio.gather(*(ask(client, number) for number in range(3)), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["UNAVAILABLE: full (server puppet, 8 attempts)"] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3


@in_virtual_time
async def test_a_model_whose_answer_has_no_row_for_each_row_is_asked_singly():
    client = TaskClient(delay=0.25)
    infer = client.server.infer

    def squeeze(request):
        response = infer(request)
        if len(client.server.requests) == 1:
            response.outputs[0].shape[:] = [1, 6]
        return response

    client.server.infer = squeeze
    await asyncio.gather(*(ask(client, number) for number in range(3)))
    assert client.server.rows == [3, 1, 1, 1]


@dataclass
class Caller:
    arrival: float
    rows: int
    timeout: float
    cancel_after: float | None
    poison: bool


callers = st.builds(
    Caller,
    arrival=st.floats(0, 3),
    rows=st.integers(1, ROWS + 1),
    timeout=st.floats(0.2, 8),
    cancel_after=st.one_of(st.none(), st.floats(0, 3)),
    poison=st.sampled_from([False] * 9 + [True]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(callers, min_size=1, max_size=25),
    st.sampled_from([0.0, 0.3]),
    st.integers(1, 3),
    st.lists(st.floats(0, 2), min_size=1, max_size=10),
    st.lists(st.sampled_from([None] * 8 + ["UNAVAILABLE", "INTERNAL"]), max_size=20),
)
def test_whatever_happens_each_caller_gets_its_own(callers, delay, connections, latencies, failures):
    async def run():
        loop = asyncio.get_running_loop()
        turn = iter(latencies * 1000)
        client = TaskClient(delay=delay, connections=connections, latencies=lambda: next(turn))
        await client.run(client.procedures.describe("double", None, None))
        client.server.failures = [code and error_of(code, "no", "puppet") for code in failures]

        async def call(number, caller):
            await asyncio.sleep(caller.arrival)
            value = POISON if caller.poison else number
            begin = loop.time()
            try:
                answer = await client.predict(images(value, caller.rows), timeout=caller.timeout)
            except CallError as error:
                return error, loop.time() - begin
            np.testing.assert_array_equal(answer, images(number * 2, caller.rows))
            return None, loop.time() - begin

        async def cancel(task, caller):
            await asyncio.sleep(caller.arrival + caller.cancel_after)
            task.cancel()

        tasks = [asyncio.create_task(call(*one)) for one in enumerate(callers)]
        cancels = [
            asyncio.create_task(cancel(task, caller))
            for task, caller in zip(tasks, callers, strict=True)
            if caller.cancel_after is not None
        ]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*cancels)
        for caller, result in zip(callers, results, strict=True):
            if isinstance(result, asyncio.CancelledError):
                assert caller.cancel_after is not None
                continue
            error, seconds = result
            assert seconds <= caller.timeout + 1e-6
            if error is None:
                assert not caller.poison
            elif isinstance(error, DeadlineExceeded):
                assert seconds >= caller.timeout - 1e-6
            else:
                assert caller.poison if isinstance(error, InvalidRequest) else error.code in failures
        assert all(rows <= ROWS for rows in client.server.rows if rows != ROWS + 1)
        await client.gatherer.close()
        assert not client.under_way
        assert not client.gathering._kinds, "nothing of the calls is left behind"
        # And the client is as good as new.
        client.server.failures = []
        await ask(client, 1)

    run_in_virtual_time(run())


class ThreadClient(Client):
    """Its server answers inferences with as many permits as it has, or freely."""

    def __init__(self, *, delay=0.0, connections=1, free=False):
        super().__init__(time.monotonic, delay=delay, connections=connections)
        self.senders = []
        self.free = free
        self.permits = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.gatherer = ThreadGathering(
            self.gathering, delay, self.asking, lambda request: self.run(self.inference.send_gathered(request))
        )
        self.run(self.procedures.describe("double", None, None))

    def run(self, steps):
        return drive(steps, self.take)

    def take(self, step):
        if not isinstance(step, Send):
            return self.gatherer.join(step)
        if step.method.name == "ModelInfer":
            self.senders.append(threading.current_thread())
            self.began.release()
            assert self.free or self.permits.acquire(timeout=30), "the test never let this request through"
        return self.server.answer(step)

    def wait_for_calls(self, number):
        """Returns when so many calls have come, in all."""
        for _ in range(number):
            assert self.gathering.came.acquire(timeout=30)

    def ask(self, number, rows=1, **options):
        answer = self.predict(images(number, rows), **options)
        np.testing.assert_array_equal(answer, images(number * 2, rows))
        return threading.current_thread()


@pytest.fixture
def threads():
    with ThreadPoolExecutor(40) as pool:
        yield pool


def test_threads_a_call_alone_is_sent_by_its_own_thread_and_others_go_together(threads):
    client = ThreadClient()
    first = threads.submit(client.ask, 1)
    client.began.acquire(timeout=30)
    others = [threads.submit(client.ask, number) for number in range(2, 7)]
    client.wait_for_calls(6)
    client.permits.release(2)
    assert client.senders[0] is first.result(30)
    assert client.senders[1] not in {other.result(30) for other in others}
    assert client.server.rows == [1, 5]


def test_threads_what_is_full_leaves_before_its_delay(threads):
    client = ThreadClient(delay=9.0, free=True)
    for done in [threads.submit(client.ask, number) for number in range(2 * ROWS)]:
        done.result(30)
    assert client.server.rows == [ROWS, ROWS]


def test_threads_the_one_that_opened_a_request_keeps_its_time(threads):
    client = ThreadClient(delay=0.05, free=True)
    client.ask(1)
    assert client.server.rows == [1]


def test_threads_a_caller_whose_time_is_up_leaves_the_others_alone(threads):
    client = ThreadClient()
    first = threads.submit(client.ask, 1)
    client.began.acquire(timeout=30)
    hasty = threads.submit(client.ask, 2, timeout=0.05)
    patient = threads.submit(client.ask, 3)
    with pytest.raises(DeadlineExceeded, match="there was no answer in time"):
        hasty.result(30)
    client.wait_for_calls(3)
    client.permits.release(2)
    first.result(30)
    patient.result(30)
    assert client.server.rows == [1, 1]


def test_threads_nobody_waits_for_a_request_that_broke(threads):
    client = ThreadClient(delay=9.0, free=True)

    def broken(request):
        raise RuntimeError("This client is closed.")

    client.server.infer = broken
    for done in [threads.submit(client.ask, number) for number in range(ROWS)]:
        with pytest.raises(RuntimeError, match="closed"):
            done.result(30)
    assert not client.gathering._kinds


def test_threads_calls_that_wait_when_the_client_is_closed_are_told(threads):
    client = ThreadClient()
    first = threads.submit(client.ask, 1)
    client.began.acquire(timeout=30)
    second = threads.submit(client.ask, 2)
    client.wait_for_calls(2)
    client.gatherer.close()
    client.permits.release(2)  # the threads for others are gone: the first one's sends the second's request
    first.result(30)
    second.result(30)
    assert client.senders == [first.result()] * 2


@pytest.mark.parametrize("delay", [0.0, 0.001])
def test_threads_under_load_each_caller_gets_its_own(threads, delay):
    client = ThreadClient(delay=delay, connections=2, free=True)

    def work(seed):
        random = np.random.default_rng(seed)
        for number in range(40):
            rows = int(random.integers(1, ROWS + 2))
            if random.random() < 0.1:
                with pytest.raises(InvalidRequest, match="poison"):
                    client.ask(POISON, rows)
            else:
                client.ask(1000 * seed + number, rows)

    for done in [threads.submit(work, seed) for seed in range(16)]:
        done.result(60)
    assert not client.gathering._kinds
    assert max(client.server.rows) <= ROWS + 1
    client.gatherer.close()
