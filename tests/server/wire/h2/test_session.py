"""A session is fed frames by hand, and what it sends is read frame by frame. No sockets."""

import asyncio
import gc
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor_server.wire.h2.admission import Admission
from conveyor_server.wire.h2.limits import Limits
from conveyor_server.wire.h2.messages import frame as framed
from conveyor_server.wire.h2.session import CONNECTION_WINDOW, Session, SessionBroken, Shared
from conveyor_server.wire.traffic import Traffic
from support import http2_frames as h2
from support.echo_service import NAME, EchoService, message

NOW, LATER, CHAT = (f"/{NAME}/{method}".encode() for method in ("Now", "Later", "Chat"))
STATUS_NAMES = b"grpc-status", bytes.fromhex("9acac8b21234da8f")
"""As it is, and in HPACK's Huffman code."""
BIG_WINDOW = h2.frame(h2.WINDOW_UPDATE, payload=pack(">I", 2**30))


class Bench:
    """One session over the echo service."""

    def __init__(self, **limits):
        self.service = EchoService()
        self.traffic = Traffic()
        limits = Limits(**limits)
        routes = {f"/{NAME}/{method}".encode(): rpc for method, rpc in self.service.rpcs[NAME].items()}
        self.shared = Shared(routes, limits, self.traffic, None, Admission(self.traffic, limits.max_waiting_calls))
        self.session = Session(self.shared, lambda: None)
        self.sent = b""

    def feed(self, data, pieces=0):
        size = pieces or len(data)
        for start in range(0, len(data), size):
            self.session.receive(memoryview(data)[start : start + size])

    def take(self, most=2**20):
        """The frames that are sent now."""
        data = b""
        while piece := self.session.output(most):
            data += piece
        return h2.frames_in(data)

    def greet(self, acknowledge=True):
        self.feed(h2.greeting() + (h2.frame(h2.SETTINGS, h2.ACK) if acknowledge else b""))
        self.take()
        return self

    async def settle(self, turns=20):
        for _ in range(turns):
            await asyncio.sleep(0)


@pytest.fixture
async def bench():
    return Bench().greet()


def kinds(frames, stream):
    return [kind for kind, _, number, _ in frames if number == stream]


async def test_a_call_is_answered_with_headers_data_and_trailers(bench):
    bench.feed(h2.call(1, NOW, message(text="hello")))
    frames = bench.take()
    assert kinds(frames, 1) == [h2.HEADERS, h2.DATA, h2.HEADERS]
    (data,) = [payload for kind, _, _, payload in frames if kind == h2.DATA]
    assert b"hello" in data
    assert frames[-1][1] & h2.END_STREAM
    assert (bench.traffic.in_progress, bench.session.calls) == (0, {})


@pytest.mark.parametrize("pieces", [1, 7, 100])
async def test_frames_may_come_in_any_pieces(bench, pieces):
    bench.feed(h2.call(1, NOW, message(text="a" * 500)), pieces)
    assert kinds(bench.take(), 1) == [h2.HEADERS, h2.DATA, h2.HEADERS]


async def test_a_refusal_is_one_frame(bench):
    bench.traffic.begin(1000)
    bench.feed(h2.call(1, NOW, message()))
    frames = [frame for frame in bench.take() if frame[2] == 1]
    assert [kind for kind, *_ in frames] == [h2.HEADERS]
    assert frames[0][1] & h2.END_STREAM


async def test_a_client_that_does_not_end_a_refused_call_is_told_to_when_nothing_comes_any_more(bench):
    bench.traffic.begin(1000)
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(NOW)))
    assert kinds(bench.take(), 1) == [h2.HEADERS]
    for _ in range(3):
        bench.feed(h2.frame(h2.DATA, 0, 1, b"x" * 1000))  # was on its way
        bench.session.look()
        assert kinds(bench.take(), 1) == []
    bench.session.look()
    assert [(kind, payload) for kind, _, stream, payload in bench.take() if stream == 1] == [
        (h2.RST_STREAM, pack(">I", 0))
    ]
    bench.traffic.end(1000)
    bench.feed(h2.call(3, NOW, message()))
    assert kinds(bench.take(), 3) == [h2.HEADERS, h2.DATA, h2.HEADERS]


async def test_a_client_that_sends_on_and_on_after_the_end_of_a_call_loses_the_connection():
    bench = Bench(max_message_bytes=100_000).greet()
    bench.traffic.begin(1000)
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(NOW)))
    assert ended_by(bench, [h2.frame(h2.DATA, 0, 1, b"x" * 10_000)] * 20)


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (h2.header_block((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"x")), b"405"),
        (
            h2.header_block((b":method", b"POST"), (b":scheme", b"http"), (b":path", NOW), (b":authority", b"x")),
            b"415",
        ),
    ],
)
async def test_what_is_no_grpc_is_answered_in_http(bench, block, status):
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, block))
    (headers, data) = [frame for frame in bench.take() if frame[2] == 1]
    assert status in headers[3]
    assert b"gRPC" in data[3]


@pytest.mark.parametrize(
    "body",
    [
        b"",  # no message at all
        b"\0\0\0\0\5abc",  # not whole
        b"\0\0\0\0\0" * 2,  # two
        b"\1\0\0\0\1x",  # compressed by nothing
    ],
)
async def test_a_body_that_is_not_one_message_is_the_clients_fault(bench, body):
    headers = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(NOW))
    bench.feed(headers + h2.frame(h2.DATA, h2.END_STREAM, 1, body))
    (answer,) = [payload for kind, _, number, payload in bench.take() if number == 1]
    assert b"grpc-status\x013" in answer.replace(b"\x00", b"") or b"3" in answer
    assert bench.traffic.in_progress == 0


async def test_a_reset_gives_the_call_up(bench):
    bench.feed(h2.call(1, NOW, message(wait=600)))
    assert bench.traffic.in_progress == 1
    bench.feed(h2.frame(h2.RST_STREAM, 0, 1, pack(">I", 8)))
    assert (bench.service.cancelled, bench.traffic.in_progress, bench.session.calls) == (1, 0, {})


async def test_a_call_that_is_reset_in_the_same_breath_is_not_answered(bench):
    bench.feed(h2.call(1, NOW, message()) + h2.frame(h2.RST_STREAM, 0, 1, pack(">I", 8)))
    assert kinds(bench.take(), 1) == []
    assert bench.traffic.in_progress == 0


@pytest.mark.parametrize("body", [b"\2\0\0\0\0", b"\0\xff\0\0\0"])
async def test_the_task_of_a_stream_ends_with_it_when_what_comes_is_no_message(bench, body):
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(CHAT)))
    bench.feed(h2.frame(h2.DATA, 0, 1, framed(message(wait=600))))
    await bench.settle()
    assert bench.traffic.in_progress == 1
    bench.session.max_message_bytes = 1000
    bench.feed(h2.frame(h2.DATA, 0, 1, body))
    await bench.settle()
    assert kinds(bench.take(), 1) == [h2.HEADERS]
    assert (bench.service.cancelled, bench.traffic.in_progress, bench.session.calls) == (1, 0, {})


async def test_a_lost_connection_gives_all_up(bench):
    bench.feed(h2.call(1, NOW, message(wait=600)) + h2.call(3, LATER, message(wait=600)))
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 5, h2.call_headers(CHAT)))
    await bench.settle()
    bench.session.lose()
    await bench.settle()
    assert (bench.service.cancelled, bench.traffic.in_progress) == (2, 0)


async def test_many_cancels_of_a_pooling_proxy_are_no_attack(bench):
    for number in range(5000):
        stream = 2 * number + 1
        bench.feed(h2.call(stream, NOW, message(wait=600)) + h2.frame(h2.RST_STREAM, 0, stream, pack(">I", 8)))
        if number % 100 == 0:
            bench.take()
    bench.feed(h2.call(10_001, NOW, message()))
    assert kinds(bench.take(), 10_001) == [h2.HEADERS, h2.DATA, h2.HEADERS]
    assert bench.traffic.in_progress == 0


def ended_by(bench, bursts):
    """Whether one of these ends the connection, if what comes back is read."""
    try:
        for burst in bursts:
            bench.feed(burst)
            bench.take()
            if bench.session.over:
                return True
    except SessionBroken:
        return True
    return False


@pytest.mark.parametrize(
    "piece",
    [
        h2.frame(h2.PING, payload=b"12345678"),
        h2.frame(h2.PING, h2.ACK, payload=b"12345678"),
        h2.frame(h2.PING, h2.ACK, payload=b"leaving "),
        h2.settings(window=65535),
        h2.frame(h2.DATA, 0, 1),
        h2.frame(h2.WINDOW_UPDATE, payload=pack(">I", 1)),
        h2.frame(h2.PRIORITY, 0, 3, pack(">IB", 0, 15)),
    ],
    ids=["ping", "answer to no ping", "answer to no farewell", "settings", "empty data", "window update", "priority"],
)
async def test_floods_end_the_connection_and_nothing_else(bench, piece):
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(NOW)))
    other = Bench().greet()
    assert ended_by(bench, [piece * 1000] * 100)
    other.feed(h2.call(1, NOW, message()))
    assert kinds(other.take(), 1) == [h2.HEADERS, h2.DATA, h2.HEADERS]


async def test_rapid_reset_ends_the_connection(bench):
    reset = pack(">I", 8)

    def burst(first):
        streams = range(first, first + 2000, 2)
        headers = h2.call_headers(NOW)
        return b"".join(
            h2.frame(h2.HEADERS, h2.END_HEADERS, stream, headers) + h2.frame(h2.RST_STREAM, 0, stream, reset)
            for stream in streams
        )

    assert ended_by(bench, (burst(2000 * number + 1) for number in range(40)))
    assert bench.traffic.in_progress == 0


async def test_frames_that_come_with_the_messages_of_a_stream_are_no_flood(bench):
    """gRPC's clients acknowledge, ping and open windows for each answer, and a stream can have very many."""
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(CHAT)))
    more = h2.frame(h2.PING, 0, 0, b"12345678") + h2.frame(h2.WINDOW_UPDATE, payload=pack(">I", 1)) * 4
    bursts = [(h2.frame(h2.DATA, 0, 1, framed(message(text="a"))) + more) * 50] * 100
    assert not ended_by(bench, bursts)
    assert ended_by(bench, [more * 50] * 300), "without messages they are"


async def test_priorities_are_ignored(bench):
    bench.feed(h2.frame(h2.PRIORITY, 0, 1, pack(">IB", 0, 15)) * 100)
    bench.feed(h2.call(1, NOW, message()))
    assert kinds(bench.take(), 1) == [h2.HEADERS, h2.DATA, h2.HEADERS]


async def test_a_flood_of_continuations_ends_the_connection(bench):
    bench.feed(h2.frame(h2.HEADERS, 0, 1, h2.call_headers(NOW)))
    assert ended_by(bench, [h2.frame(h2.CONTINUATION, 0, 1, h2.header_block((b"x", b"y")))] * 100)


@pytest.mark.parametrize("path", [NOW, CHAT, LATER])
async def test_the_last_call_of_a_connection_that_leaves_may_be_given_up_in_its_middle(bench, path):
    """The library has ended the connection by the time that we look at what came."""
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(path)))
    bench.session.leave()
    bench.session.leave_for_good()
    bench.take()
    bench.feed(h2.frame(h2.DATA, 0, 1, b"\0\0\0\1\0ab") + h2.frame(h2.RST_STREAM, 0, 1, pack(">I", 8)))
    bench.session.look()
    await bench.settle()
    bench.take()
    assert bench.session.over
    assert (bench.traffic.in_progress, bench.session.calls) == (0, {})


async def test_headers_over_the_limit_are_refused_and_the_connection_lives(bench):
    more = [(b"x-%d" % number, b"y" * 4000) for number in range(5)]
    blocks = h2.call_headers(NOW, *more)
    bench.feed(
        h2.frame(h2.HEADERS, h2.END_STREAM, 1, blocks[:16_000])
        + h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, blocks[16_000:])
    )
    assert kinds(bench.take(), 1) == [h2.HEADERS]
    bench.feed(h2.call(3, NOW, message()))
    assert kinds(bench.take(), 3) == [h2.HEADERS, h2.DATA, h2.HEADERS]


async def test_a_bomb_of_headers_ends_the_connection(bench):
    """One field of 4,000 bytes in the table of HPACK, and a thousand references to it of a byte each."""
    field = b"\x40" + h2._string(b"x") + h2._string(b"y" * 4000)
    block = h2.call_headers(NOW) + field + b"\xbe" * 1000
    with pytest.raises(SessionBroken, match="header"):
        bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, block))


async def test_streams_over_the_limit_are_refused_until_the_client_knows_it_and_an_error_then():
    bench = Bench(max_streams=10).greet(acknowledge=False)
    bench.feed(b"".join(h2.call(2 * number + 1, NOW, message(wait=600)) for number in range(10)))
    assert len(bench.session.calls) == 10
    bench.take()
    bench.feed(h2.call(21, NOW, message()))
    refused = pack(">I", 7)
    assert [(kind, payload) for kind, _, stream, payload in bench.take() if stream == 21] == [(h2.RST_STREAM, refused)]
    bench.feed(h2.frame(h2.SETTINGS, h2.ACK) + h2.call(23, NOW, message()))
    assert [kind for kind, *_ in bench.take()] == [h2.GOAWAY]
    assert bench.session.over
    assert bench.session.calls == {}


async def test_unfinished_requests_are_bounded():
    bench = Bench(held_bytes_per_connection=100_000, max_message_bytes=200_000).greet()
    prefix = b"\0" + pack(">I", 190_000)
    for number in range(50):
        stream = 2 * number + 1
        bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.call_headers(NOW)))
        bench.feed(h2.frame(h2.DATA, 0, stream, prefix + b"x" * 10_000))
        assert bench.session.unread <= 111_000
        bench.take()
    assert 5 < len(bench.session.calls) < 12
    assert bench.session.unread == sum(call.held for call in bench.session.calls.values())


async def test_a_request_that_comes_too_slowly_is_refused(bench):
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(NOW)) + h2.call(3, NOW, message(wait=600)))
    bench.take()
    bench.session.end_slow_requests(lambda seconds, received: received < 1)
    assert kinds(bench.take(), 1) == [h2.HEADERS]
    assert list(bench.session.calls) == [3], "a whole request may take its time"


async def test_what_a_client_does_not_read_stays_and_is_counted(bench):
    bench.feed(h2.call(1, NOW, message(size=200_000)))
    frames = bench.take()
    sent = sum(len(payload) for kind, _, _, payload in frames if kind == h2.DATA)
    assert sent <= 65_535
    assert bench.session.unsent > 130_000
    window = pack(">I", 2**20)
    bench.feed(h2.frame(h2.WINDOW_UPDATE, payload=window) + h2.frame(h2.WINDOW_UPDATE, 0, 1, window))
    rest = bench.take()
    assert sent + sum(len(payload) for kind, _, _, payload in rest if kind == h2.DATA) > 200_000
    assert rest[-1][0] == h2.HEADERS
    assert bench.session.unsent == 0


async def test_a_stream_of_a_client_that_does_not_read_waits(bench):
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(CHAT)))
    one = message(size=50_000)
    for _ in range(40):
        bench.feed(h2.frame(h2.DATA, 0, 1, b"\0" + pack(">I", len(one)) + one))
    for _ in range(20):
        await bench.settle()
        bench.take()
    assert bench.session.unsent < 400_000, "of two million"
    assert bench.traffic.in_progress > 25
    window = pack(">I", 2**24)
    bench.feed(h2.frame(h2.WINDOW_UPDATE, payload=window) + h2.frame(h2.WINDOW_UPDATE, 0, 1, window))
    for _ in range(100):
        await bench.settle()
        bench.take()
    assert (bench.traffic.in_progress, bench.session.unsent, bench.session.unread) == (0, 0, 0)


async def test_answers_that_are_not_read_take_no_ones_place():
    bench = Bench(max_waiting_calls=10).greet()
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(CHAT)))
    one = message(size=50_000)
    for _ in range(40):
        bench.feed(h2.frame(h2.DATA, 0, 1, b"\0" + pack(">I", len(one)) + one))
    await bench.settle()
    assert bench.traffic.in_progress > 25
    bench.feed(h2.call(3, NOW, message()))
    bench.feed(h2.frame(h2.WINDOW_UPDATE, payload=pack(">I", 2**20)))
    assert kinds(bench.take(), 3) == [h2.HEADERS, h2.DATA, h2.HEADERS]


async def test_what_is_answered_earns_time_and_what_is_not_does_not(bench):
    bench.feed(h2.call(1, NOW, message()))
    assert bench.session.earned > 0
    bench.session.earned = 0.0
    bench.feed(h2.call(3, b"/nobody/Nothing", message()) + h2.call(5, NOW, message(error="InvalidRequest")))
    assert bench.session.earned == 0
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 7, h2.call_headers(CHAT)))
    assert bench.session.earned < 0, "its task takes time later"


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
async def test_a_compressed_request_is_unpacked_as_far_as_it_could_be_answered(bench, encoding):
    body = framed(bytes(5 * 2**20), encoding)
    block = h2.call_headers(LATER, (b"grpc-encoding", encoding))
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, block) + h2.frame(h2.DATA, h2.END_STREAM, 1, body))
    await bench.settle(turns=1000)  # a piece in each
    (refusal,) = [payload for kind, _, stream, payload in bench.take() if stream == 1]
    assert any(name + b"\x018" in refusal for name in STATUS_NAMES), "RESOURCE_EXHAUSTED"


async def test_a_stream_that_is_given_up_while_its_requests_are_read_ends_in_silence(bench, caplog):
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(CHAT)))
    for _ in range(20):
        bench.feed(h2.frame(h2.DATA, 0, 1, b"\0\0\0\0\0"))
    await asyncio.sleep(0)
    bench.feed(h2.frame(h2.RST_STREAM, 0, 1, pack(">I", 8)))
    await bench.settle()
    gc.collect()
    assert caplog.records == []


async def test_a_stream_whose_handler_is_behind_holds_its_client_up(bench):
    bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(CHAT)))
    one = message(wait=600, text="x" * 10_000)
    sent = let_in = 0
    while sent < 10**6:
        sent += len(one) + 5
        if sent - let_in > CONNECTION_WINDOW:
            break
        bench.feed(h2.frame(h2.DATA, 0, 1, b"\0" + pack(">I", len(one)) + one))
        updates = [payload for kind, _, stream, payload in bench.take() if kind == h2.WINDOW_UPDATE and stream == 0]
        let_in += sum(int.from_bytes(payload, "big") for payload in updates)
        await bench.settle()
    assert sent < 500_000, "the client must wait, for the handler does"
    bench.session.lose()
    await bench.settle()
    assert bench.traffic.in_progress == 0


async def test_calls_end_with_the_session(bench):
    bench.feed(h2.call(1, NOW, message(wait=600)) + h2.frame(h2.HEADERS, h2.END_HEADERS, 3, h2.call_headers(CHAT)))
    bench.feed(h2.frame(h2.DATA, 0, 0, b"a frame that no connection has"))
    await bench.settle()
    assert [kind for kind, *_ in bench.take()][-1] == h2.GOAWAY
    await bench.settle()
    assert (bench.session.over, bench.session.calls, bench.traffic.in_progress) == (True, {}, 0)
    bench.session.leave_for_good()
    bench.session.look()


async def test_leaving_takes_two_steps(bench):
    bench.feed(h2.call(1, NOW, message(wait=0.05, text="late")))
    bench.session.leave()
    notice, ping = [frame for frame in bench.take() if frame[0] in (h2.GOAWAY, h2.PING)]
    if notice[0] == h2.PING:
        notice, ping = ping, notice
    assert notice[3][:4] == pack(">I", 2**31 - 1)
    bench.feed(h2.call(3, NOW, message()))  # was on its way
    assert kinds(bench.take(), 3) == [h2.HEADERS, h2.DATA, h2.HEADERS]
    bench.feed(h2.frame(h2.PING, h2.ACK, 0, ping[3]))
    (last,) = [payload for kind, _, _, payload in bench.take() if kind == h2.GOAWAY]
    assert last[:4] == pack(">I", 3)
    assert not bench.session.over
    await asyncio.wait_for(bench.traffic.silence(), 10)
    assert kinds(bench.take(), 1) == [h2.HEADERS, h2.DATA, h2.HEADERS]
    assert bench.session.over


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([NOW, LATER, CHAT, b"/nope"]),
            st.integers(0, 60_000),
            st.sampled_from(["whole", "reset", "wait and reset", "two messages"]),
            st.integers(1, 5),
        ),
        max_size=30,
    )
)
def test_the_window_is_given_back_whatever_becomes_of_the_calls(calls):
    async def run():
        bench = Bench().greet()
        sent = let_in = 0
        for number, (path, size, how, pieces) in enumerate(calls):
            stream = 2 * number + 1
            text = message(text="x" * size, **({"wait": 600} if how == "wait and reset" else {}))
            body = (b"\0" + pack(">I", len(text)) + text) * (2 if how == "two messages" else 1)
            bench.feed(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.call_headers(path)))
            step = -(-len(body) // pieces)
            for start in range(0, len(body), step):
                piece = body[start : start + step]
                last = start + step >= len(body) and how != "reset"
                for at in range(0, len(piece), 16_384):
                    end = h2.END_STREAM if last and at + 16_384 >= len(piece) else 0
                    bench.feed(h2.frame(h2.DATA, end, stream, piece[at : at + 16_384]))
                await bench.settle()
                updates = [p for kind, _, s, p in bench.take() if kind == h2.WINDOW_UPDATE and s == 0]
                let_in += sum(int.from_bytes(payload, "big") for payload in updates)
            if "reset" in how:
                bench.feed(h2.frame(h2.RST_STREAM, 0, stream, pack(">I", 8)))
            sent += len(body)
            await bench.settle()
            let_in += sum(
                int.from_bytes(payload, "big")
                for kind, _, s, payload in bench.take()
                if kind == h2.WINDOW_UPDATE and s == 0
            )
            # The library sends an update when half of the window has been used up.
            assert sent - let_in <= CONNECTION_WINDOW // 2 + len(body)
        assert sent - let_in <= CONNECTION_WINDOW // 2
        assert bench.session.unread == 0
        bench.session.lose()
        await bench.settle()

    asyncio.run(run())


CHUNKS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        h2.frame,
        st.integers(0, 12),
        st.sampled_from([0, 1, 4, 5, 8, 32, 255]),
        st.integers(0, 8),
        st.one_of(st.binary(max_size=40), st.just(h2.call_headers(NOW)), st.just(h2.call_headers(CHAT))),
    ),
    st.builds(
        lambda number, path, text: h2.call(2 * number + 1, path, message(text=text)),
        st.integers(0, 5),
        st.sampled_from([NOW, LATER, CHAT, b"/nope"]),
        st.text(max_size=5),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(CHUNKS, max_size=25), st.booleans(), st.booleans())
def test_whatever_comes_ends_in_an_answer_or_in_the_end_of_the_session(chunks, greets, leaves):
    async def run():
        bench = Bench()
        try:
            if greets:
                bench.feed(h2.greeting())
            for chunk in chunks:
                if chunk:
                    bench.feed(chunk)
                bench.take()
                await bench.settle()
                if leaves:
                    bench.session.leave()
                bench.session.look()
                bench.session.ask_for_life()
                if bench.session.over:
                    assert bench.session.calls == {}
        except SessionBroken:
            pass
        bench.session.lose()
        await bench.settle()
        assert bench.traffic.in_progress == 0
        assert bench.session.calls == {}

    asyncio.run(run())
