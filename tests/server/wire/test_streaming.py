import asyncio
from contextlib import aclosing
from math import inf

import pytest

from conveyor_server.core.errors import InvalidRequest
from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.wire import streaming
from conveyor_server.wire.streaming import stream_inferences


class Puppet:
    """Takes requests as the service does, and answers them when the test says so."""

    def __init__(self):
        self.calls = []
        self.cancelled = []
        self.at_once = False

    def infer(self, data, call):
        call.request_id = data.decode()
        call.when_cancelled(lambda: self.cancelled.append(call.request_id))
        self.calls.append(call)
        if self.at_once:
            self.answer(call)

    def answer(self, call):
        call.answer(pb.ModelInferResponse(id=call.request_id).SerializeToString())


class Requests:
    """What a client sends, as the test says."""

    def __init__(self):
        self.queue = asyncio.Queue()
        self.read = 0

    def send(self, *names):
        for name in names:
            self.queue.put_nowait(name.encode())

    def end(self):
        self.queue.put_nowait(None)

    async def __aiter__(self):
        while (data := await self.queue.get()) is not None:
            self.read += 1
            yield data


async def turns(number=20):
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.fixture
def puppet():
    return Puppet()


@pytest.fixture
async def requests():
    return Requests()


async def take(stream, number):
    return [await asyncio.wait_for(anext(stream), 10) for _ in range(number)]


async def test_answers_come_as_they_finish(puppet, requests):
    stream = stream_inferences(aiter(requests), inf, puppet.infer)
    requests.send("a", "b", "c")
    reading = asyncio.create_task(take(stream, 3))
    await turns()
    for position in (2, 0, 1):
        puppet.answer(puppet.calls[position])
    answers = await reading
    assert [answer.infer_response.id for answer in answers] == ["c", "a", "b"]
    assert all(answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers)
    requests.end()
    assert [answer async for answer in stream] == []
    assert not puppet.cancelled


async def test_an_error_answers_its_own_request_and_the_stream_lives(puppet, requests):
    stream = stream_inferences(aiter(requests), inf, puppet.infer)
    requests.send("bad", "good")
    reading = asyncio.create_task(take(stream, 2))
    await turns()
    puppet.calls[0].fail(InvalidRequest("no such input"))
    puppet.answer(puppet.calls[1])
    bad, good = await reading
    assert (bad.error_message, bad.infer_response.id) == ("no such input", "bad")
    assert (good.error_message, good.infer_response.id) == ("", "good")
    await stream.aclose()


async def test_what_is_unanswered_when_the_client_has_no_more_is_answered(puppet, requests):
    stream = stream_inferences(aiter(requests), inf, puppet.infer)
    requests.send("a", "b")
    requests.end()
    reading = asyncio.create_task(anext(stream))
    await turns()
    puppet.answer(puppet.calls[1])
    await reading
    rest = asyncio.create_task(take(stream, 1))
    await turns()
    assert not rest.done()
    puppet.answer(puppet.calls[0])
    assert (await rest)[0].infer_response.id == "a"
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_closing_the_stream_gives_up_all_its_requests(puppet, requests):
    stream = stream_inferences(aiter(requests), inf, puppet.infer)
    requests.send("a", "b", "c")
    async with aclosing(stream):
        reading = asyncio.create_task(take(stream, 1))
        await turns()
        puppet.answer(puppet.calls[1])
        await reading
    assert sorted(puppet.cancelled) == ["a", "c"]
    puppet.answer(puppet.calls[0])  # too late, and harmless


async def test_a_client_that_asks_and_does_not_read_is_not_read_on(puppet, requests, monkeypatch):
    monkeypatch.setattr(streaming, "MAX_UNANSWERED", 3)
    stream = stream_inferences(aiter(requests), inf, puppet.infer)
    puppet.at_once = True
    requests.send(*"abcdefg")
    (first,) = await take(stream, 1)
    await turns()
    assert first.infer_response.id == "a"
    assert requests.read == 3, "the first answer is not sent until the next is asked for"
    await take(stream, 1)
    await turns()
    assert requests.read == 4
    requests.end()
    assert len([answer async for answer in stream]) == 5


async def test_the_deadline_of_the_stream_is_that_of_each_request(puppet, requests):
    stream = stream_inferences(aiter(requests), 42.0, puppet.infer)
    requests.send("a")
    puppet.at_once = True
    await take(stream, 1)
    assert puppet.calls[0].deadline == 42.0
    await stream.aclose()


async def test_a_failure_to_read_ends_the_stream(puppet):
    async def broken():
        yield b"a"
        raise RuntimeError("the transport broke")

    puppet.at_once = True
    with pytest.raises(RuntimeError, match="the transport broke"):
        async for _ in stream_inferences(broken(), inf, puppet.infer):
            pass
