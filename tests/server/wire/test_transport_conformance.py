"""What every transport must do, seen by gRPC's own client.

The cases are those of gRPC's interoperability tests (interop-test-descriptions.md) that apply to a server without
client-only streams; the names in parentheses are theirs.
"""

import asyncio

import grpc
import grpc.aio
import pytest

from conveyor_server.wire.connection_limits import ConnectionLimits
from conveyor_server.wire.grpc_transport import GrpcTransport
from conveyor_server.wire.h2.limits import Limits
from conveyor_server.wire.h2.transport import H2Transport
from support.echo_service import INITIAL, NAME, TRAILING, EchoService, message, read

LIMIT = 4 * 2**20


def open_h2(service):
    return H2Transport(service, "127.0.0.1", 0, Limits(max_message_bytes=LIMIT, max_waiting_calls=10_000))


def open_grpcio(service):
    return GrpcTransport(service, "127.0.0.1", 0, ConnectionLimits(max_message_bytes=LIMIT), 10_000)


class Ends:
    """A service, a transport that carries it, and a client."""

    def __init__(self, service, transport, channel):
        self.service, self.transport, self.channel = service, transport, channel
        self.now, self.later = (channel.unary_unary(f"/{NAME}/{method}") for method in ("Now", "Later"))
        self.count = channel.unary_stream(f"/{NAME}/Count")
        self.chat = channel.stream_stream(f"/{NAME}/Chat")


@pytest.fixture(params=[open_h2, open_grpcio], ids=["h2", "grpcio"])
async def ends(request):
    service = EchoService()
    transport = request.param(service)
    await transport.start()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{transport.port}", options) as channel:
        yield Ends(service, transport, channel)
    await transport.stop(5)
    assert transport.in_progress == 0


@pytest.fixture(params=["now", "later"])
def unary(ends, request):
    return getattr(ends, request.param)


async def until(condition):
    """Polls: what is waited for happens in the midst of a library."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("It never came.")


async def failure(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, 60)
    return caught.value.code(), caught.value.details()


async def test_an_empty_message(unary):
    """(empty_unary)"""
    assert read(await unary(b"")) == {"text": "", "payload": ""}


@pytest.mark.parametrize("size", [271_828, 3 * 2**19])
async def test_large_messages_both_ways(unary, size):
    """(large_unary)"""
    answer = read(await unary(message(text="y" * size, size=size)))
    assert (len(answer["text"]), len(answer["payload"])) == (size, size)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages(unary, compression):
    """(client_compressed_unary, server_compressed_unary)"""
    answer = read(await unary(message(text="a" * 100_000, size=50_000), compression=compression))
    assert (len(answer["text"]), len(answer["payload"])) == (100_000, 50_000)


async def test_a_compressed_message_that_is_larger_than_the_limit(unary):
    code, _ = await failure(unary(message(text="a" * (LIMIT + 1)), compression=grpc.Compression.Gzip))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_that_is_larger_than_the_limit(unary):
    code, text = await failure(unary(message(text="a" * (LIMIT + 1))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"vs. {LIMIT}" in text
    assert read(await unary(message(text="still there")))["text"] == "still there"


async def test_an_answer_that_is_larger_than_the_limit(unary):
    code, text = await failure(unary(message(size=LIMIT + 1)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in text


async def test_a_stream_of_answers(ends):
    """(server_streaming)"""
    numbers = [read(answer)["number"] async for answer in ends.count(message(answers=20, size=31_415))]
    assert numbers == list(range(20))


async def test_a_compressed_stream(ends):
    """(server_compressed_streaming)"""
    call = ends.chat(compression=grpc.Compression.Gzip)
    for _ in range(3):
        await call.write(message(text="t" * 50_000, size=50_000))
        assert len(read(await call.read())["payload"]) == 50_000
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_ping_pong(ends):
    """(ping_pong)"""
    call = ends.chat()
    for number, size in enumerate([31_415, 9, 2_653, 58_979]):
        await call.write(message(text=str(number), size=size))
        answer = read(await call.read())
        assert (answer["text"], len(answer["payload"])) == (str(number), size)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_without_a_message(ends):
    """(empty_stream)"""
    call = ends.chat()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_many_messages_on_one_stream_in_order(ends):
    call = ends.chat()

    async def write():
        for number in range(500):
            await call.write(message(text=str(number), size=1000))
        await call.done_writing()

    writing = asyncio.create_task(write())
    assert [read(answer)["text"] async for answer in call] == [str(number) for number in range(500)]
    await writing


async def test_status_code_and_text(ends, unary):
    """(status_code_and_message)"""
    request = message(error="ModelNotFound", text="test status message")
    assert await failure(unary(request)) == (grpc.StatusCode.NOT_FOUND, "test status message")
    for call in (ends.count(request), ends.chat(iter([request]))):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "test status message")


@pytest.mark.parametrize(
    "text", ["\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n", "100 %", "%20", "a" * 3000]
)
async def test_special_characters_in_the_text_of_a_status(unary, text):
    """(special_status_message)"""
    assert await failure(unary(message(error="InvalidRequest", text=text))) == (grpc.StatusCode.INVALID_ARGUMENT, text)


async def test_a_status_behind_messages(ends):
    call = ends.count(message(answers=2, last="Draining"))
    answers = [await call.read(), await call.read()]
    assert [read(answer)["number"] for answer in answers] == [0, 1]
    with pytest.raises(grpc.aio.AioRpcError, match="the last word") as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_refusal_is_a_status_without_a_message_before_it(ends, unary):
    """What balancers retry: the client's library saw no initial metadata apart from the status."""
    call = unary(message(error="Overloaded", text="no"))
    assert (await failure(call))[0] is grpc.StatusCode.UNAVAILABLE
    assert list(await call.initial_metadata()) == []


@pytest.mark.parametrize("path", [f"/{NAME}/Nothing", "/test.Nothing/Now", "/", "/x"])
async def test_unknown_methods_and_services(ends, path):
    """(unimplemented_method, unimplemented_service)"""
    code, _ = await failure(ends.channel.unary_unary(path)(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_cancel_after_the_beginning(ends):
    """(cancel_after_begin)"""
    call = ends.chat()
    await call.wait_for_connection()
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED


async def test_a_cancel_after_the_first_answer(ends):
    """(cancel_after_first_response)"""
    call = ends.chat()
    await call.write(message(text="one"))
    await call.read()
    await call.write(message(wait=600))
    await until(lambda: ends.service.waiting)
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED
    await until(lambda: ends.service.cancelled)
    await until(lambda: ends.transport.in_progress == 0)


async def test_a_cancelled_unary_call_is_given_up(ends, unary):
    call = unary(message(wait=600))
    await until(lambda: ends.service.waiting)
    call.cancel()
    await until(lambda: ends.service.cancelled)
    await until(lambda: ends.transport.in_progress == 0)


async def test_a_deadline_that_passes(ends, unary):
    """(timeout_on_sleeping_server)"""
    assert (await failure(unary(message(wait=600), timeout=0.05)))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: ends.service.cancelled or ends.transport.in_progress == 0)
    call = ends.chat(iter([message(wait=600)]), timeout=0.05)
    assert (await failure(call.read()))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: ends.transport.in_progress == 0)


async def test_metadata_both_ways(ends):
    """(custom_metadata)"""
    metadata = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\x0a\x0b\x0a\x0b\x0a\x0b"))
    call = ends.now(message(text="t"), metadata=metadata)
    await call
    assert tuple(await call.initial_metadata()) == metadata[:1]
    assert tuple(await call.trailing_metadata()) == metadata[1:]
    chat = ends.chat(iter([message()]), metadata=metadata[:1])
    await chat.read()
    assert tuple(await chat.initial_metadata()) == metadata[:1]


async def test_many_calls_at_once_on_one_connection(ends):
    answers = await asyncio.gather(*(ends.now(message(text=str(number), size=5000)) for number in range(3000)))
    assert [read(answer)["text"] for answer in answers] == [str(number) for number in range(3000)]


async def test_answers_of_more_than_a_window_reach_a_slow_reader(ends):
    call = ends.count(message(answers=8, size=2**20))
    async for _ in call:
        await asyncio.sleep(0.01)
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stop_answers_what_was_accepted_and_refuses_streams_with_a_code_that_is_retried(ends):
    accepted = asyncio.create_task(asyncio.wait_for(ends.now(message(wait=0.5, text="done")), 30))
    stream = ends.chat()
    await stream.write(message(text="one"))
    await stream.read()
    await until(lambda: ends.service.waiting)
    await ends.transport.stop(10)
    assert read(await accepted)["text"] == "done"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
