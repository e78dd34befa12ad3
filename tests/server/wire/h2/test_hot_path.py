"""What every request costs, as far as it can be counted instead of timed."""

import asyncio
import time

import pytest

from conveyor_server.wire.h2.messages import frame
from support.h2_bench import ModelBehindSession
from support.leaks import garbage

MILLISECOND = 1e-3
CALLS_AT_ONCE = 64
ATTEMPTS = 200


@pytest.fixture
async def bench(tmp_path):
    made = ModelBehindSession(tmp_path)
    await made.open()
    yield made
    made.repository.close()


@pytest.mark.parametrize("kind", ["answered", "no message", "too large", "unknown model"])
async def test_requests_leave_nothing_for_the_garbage_collector(bench, kind):
    """Refused ones either: their bytes would stay until the collector comes, a gigabyte of large ones."""
    messages = {"answered": bench.request(1), "no message": frame(b"\xff"), "too large": frame(bytes(2 * 2**20))}
    message = messages.get(kind) or frame(b"\x0a\x04nope")
    await bench.burst(message, 100)
    with garbage() as left:
        for _ in range(5):
            await bench.burst(message, 100)
    assert not left


@pytest.mark.parametrize(("rows", "count"), [(1, 64), (1, 500), (32, 32), (1000, 2)])
async def test_no_turn_of_the_loop_takes_a_millisecond(bench, monkeypatch, rows, count):
    """Counted in the thread's own time, until an attempt is calm enough: a busy machine proves nothing."""
    longest = []
    run = asyncio.Handle._run

    def watched(handle):
        began = time.thread_time()
        run(handle)
        if not isinstance(getattr(handle._callback, "__self__", None), asyncio.Task):  # the test's own
            longest[-1] = max(longest[-1], time.thread_time() - began)

    monkeypatch.setattr(asyncio.Handle, "_run", watched)
    message = bench.request(rows)
    for _ in range(ATTEMPTS):
        longest.append(0.0)
        await bench.burst(message, count)
        if longest[-1] < MILLISECOND:
            break
    assert 0 < longest[-1] < MILLISECOND


async def test_many_calls_that_are_read_at_once_are_handled_within_a_millisecond(bench, monkeypatch):
    spent = []
    receive = bench.session.receive

    def watched(data):
        began = time.thread_time()
        receive(data)
        spent.append(time.thread_time() - began)

    monkeypatch.setattr(bench.session, "receive", watched)
    message = bench.request(1)
    for _ in range(ATTEMPTS):
        spent.clear()
        await bench.burst(message, CALLS_AT_ONCE)
        if max(spent) < MILLISECOND:
            break
    assert max(spent) < MILLISECOND
