"""Sessions that share an unpacker are fed compressed messages by hand, and turns are counted. No sockets."""

import asyncio
import random
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor_server.wire.h2 import packed_messages
from conveyor_server.wire.h2.admission import Admission
from conveyor_server.wire.h2.limits import Limits
from conveyor_server.wire.h2.messages import MessageReader
from conveyor_server.wire.h2.messages import frame as framed
from conveyor_server.wire.h2.packed_messages import MOST_WAITING_BYTES
from conveyor_server.wire.h2.session import CONNECTION_WINDOW, Session, Shared
from conveyor_server.wire.h2.unpacking import OUTPUT_STEP, STATE_BYTES
from conveyor_server.wire.traffic import Traffic
from support import http2_frames as h2
from support.echo_service import NAME, EchoService, message, read
from support.leaks import garbage

NOW, LATER, CHAT = (f"/{NAME}/{method}".encode() for method in ("Now", "Later", "Chat"))
GZIP = (b"grpc-encoding", b"gzip")
RESET = pack(">I", 8)
LARGE = message(text="x" * 2**20)
BOMB = framed(bytes(2**24), b"gzip")


@pytest.fixture
def piecemeal(monkeypatch):
    """Nothing is unpacked at once, and one piece in each turn."""
    monkeypatch.setattr(packed_messages, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(packed_messages, "AT_ONCE_SECONDS", 0.0)


@pytest.fixture
def at_leisure(monkeypatch):
    """A turn has time for everything, however busy the machine is."""
    monkeypatch.setattr(packed_messages, "TURN_SECONDS", 1000.0)
    monkeypatch.setattr(packed_messages, "AT_ONCE_SECONDS", 1000.0)


class WatchedSession(Session):
    """Remembers why calls were refused."""

    def __init__(self, shared):
        super().__init__(shared, lambda: None)
        self.refused = {}

    def refuse(self, call, error):
        self.refused.setdefault(call.stream_id, str(error))
        super().refuse(call, error)


class Peers:
    """Connections of one transport."""

    def __init__(self, count=1, **limits):
        self.traffic = Traffic()
        self.service = EchoService()
        routes = {f"/{NAME}/{method}".encode(): rpc for method, rpc in self.service.rpcs[NAME].items()}
        made = Limits(**limits)
        self.shared = Shared(routes, made, self.traffic, None, Admission(self.traffic, made.max_waiting_calls))
        self.sessions = [WatchedSession(self.shared) for _ in range(count)]
        for number in range(count):
            self.feed(h2.greeting() + h2.frame(h2.SETTINGS, h2.ACK), number)
            self.take(number)

    @property
    def session(self):
        return self.sessions[0]

    def feed(self, data, number=0):
        for start in range(0, len(data), 16_384):
            self.sessions[number].receive(memoryview(data)[start : start + 16_384])

    def take(self, number=0):
        data = b""
        while piece := self.sessions[number].output(2**20):
            data += piece
        return h2.frames_in(data)

    async def until(self, met):
        """Lets turns pass; returns how many it took."""
        for turns in range(100_000):
            if met():
                return turns
            await asyncio.sleep(0)
        raise AssertionError("It never comes.")

    async def rest(self):
        """Until nothing is left to be unpacked, and a little longer."""
        await self.until(lambda: not self.shared.unpacker._lines)
        for _ in range(20):
            await asyncio.sleep(0)


def opened(stream, path, *bodies, end=True):
    """A call whose headers name an encoding."""
    pieces = b"".join(
        h2.frame(h2.DATA, 0, stream, body[start : start + 16_384])
        for body in bodies
        for start in range(0, len(body), 16_384)
    )
    last = h2.frame(h2.DATA, h2.END_STREAM, stream) if end else b""
    return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.call_headers(path, GZIP)) + pieces + last


def kinds(frames, stream):
    return [kind for kind, _, number, _ in frames if number == stream]


ANSWERED = [h2.HEADERS, h2.DATA, h2.HEADERS]


@pytest.mark.usefixtures("at_leisure")
@pytest.mark.parametrize("path", [NOW, LATER])
async def test_what_the_turn_has_time_for_is_there_at_once(path):
    peers = Peers()
    peers.feed(opened(1, path, framed(message(text="x" * 50_000), b"gzip")))
    assert peers.traffic.in_progress == (path == LATER)
    await peers.rest()
    assert kinds(peers.take(), 1) == ANSWERED
    assert peers.session.unread == 0


@pytest.mark.usefixtures("piecemeal")
async def test_while_a_large_one_is_unpacked_others_are_answered():
    peers = Peers(2)
    peers.feed(opened(1, NOW, framed(LARGE, b"gzip")))
    for turn in range(10):
        stream = 2 * turn + 1
        peers.feed(h2.call(stream, NOW, message()), 1)
        assert kinds(peers.take(1), stream) == ANSWERED
        assert peers.traffic.in_progress == 0
        await asyncio.sleep(0)
    turns = await peers.until(lambda: not peers.session.calls)
    assert turns > 2**20 // OUTPUT_STEP - 12
    assert kinds(peers.take(), 1) == ANSWERED


@pytest.mark.usefixtures("piecemeal")
async def test_in_a_turn_one_piece_is_unpacked_whoever_waits():
    peers = Peers(4)
    for number in range(4):
        peers.feed(opened(1, NOW, BOMB), number)
    held = [session.unread for session in peers.sessions]
    for _ in range(40):
        await asyncio.sleep(0)
        now = [session.unread for session in peers.sessions]
        assert sum(now) - sum(held) <= OUTPUT_STEP + STATE_BYTES
        assert max(now) - min(now) <= OUTPUT_STEP + STATE_BYTES, "each has its turn"
        held = now
    assert sum(held) > 30 * OUTPUT_STEP


@pytest.mark.usefixtures("piecemeal")
async def test_of_a_connection_one_is_unpacked_at_a_time_and_all_that_is_held_is_counted():
    peers = Peers(max_message_bytes=2**20)
    bomb = framed(bytes(2**21), b"gzip")
    for call in range(20):
        peers.feed(opened(2 * call + 1, NOW, bomb))
    session, held = peers.session, []

    def done():
        held.append(session.unread)
        assert held[-1] == sum(call.held for call in session.calls.values())
        return not session.calls

    await peers.until(done)
    assert 2**20 - OUTPUT_STEP < max(held) < 2**20 + STATE_BYTES + 20 * len(bomb)
    assert session.unread == session.line.waiting_bytes == 0
    assert list(session.refused) == [2 * call + 1 for call in range(20)]
    assert set(session.refused.values()) == {"Decompressed message larger than max (1048576)"}


@pytest.mark.usefixtures("piecemeal")
async def test_a_connection_that_holds_too_much_gives_up_the_call_that_is_unpacked():
    peers = Peers(held_bytes_per_connection=10 * OUTPUT_STEP)
    peers.feed(opened(1, NOW, BOMB))
    turns = await peers.until(lambda: not peers.session.calls)
    assert 8 < turns < 14
    assert "Too many requests of this connection are under way" in peers.session.refused[1]
    assert peers.session.unread == 0


@pytest.mark.usefixtures("piecemeal")
@pytest.mark.parametrize("path", [NOW, LATER, CHAT])
@pytest.mark.parametrize("how", ["reset", "lost"])
async def test_the_work_is_dropped_with_the_call(path, how):
    peers = Peers()
    peers.feed(opened(1, path, BOMB) + opened(3, path, BOMB))
    for _ in range(5):
        await asyncio.sleep(0)
    assert peers.session.unread > 2 * OUTPUT_STEP
    if how == "reset":
        peers.feed(b"".join(h2.frame(h2.RST_STREAM, 0, stream, RESET) for stream in (1, 3)))
    else:
        peers.session.lose()
    assert peers.session.line.waiting_bytes == 0
    assert (peers.session.unread == 0) or how == "lost"
    for _ in range(3):
        await asyncio.sleep(0)
    assert not peers.shared.unpacker._lines
    await peers.rest()
    assert (peers.session.calls, peers.traffic.in_progress) == ({}, 0)


@pytest.mark.usefixtures("piecemeal")
async def test_when_one_is_given_up_the_next_has_its_turn():
    peers = Peers()
    peers.feed(opened(1, NOW, BOMB) + opened(3, NOW, framed(message(text="a"), b"gzip")))
    await asyncio.sleep(0)
    peers.feed(h2.frame(h2.RST_STREAM, 0, 1, RESET))
    assert await peers.until(lambda: not peers.session.calls) < 5
    assert kinds(peers.take(), 3) == ANSWERED


def texts(frames, stream):
    """What was answered on a stream."""
    data = b"".join(payload for kind, _, number, payload in frames if (kind, number) == (h2.DATA, stream))
    return [read(answer)["text"] for answer in MessageReader(2**20).feed(data)]


@pytest.mark.parametrize("seconds", [0.0, 0.0001, 1000.0])
@given(packs=st.lists(st.tuples(st.booleans(), st.integers(0, 100_000)), max_size=6), size=st.integers(1000, 16_384))
@settings(max_examples=20, deadline=None)
def test_the_messages_of_a_stream_keep_their_order(seconds, packs, size):
    data = b"".join(
        framed(message(text=str(number), padding="y" * padding), b"gzip" if packed else b"identity")
        for number, (packed, padding) in enumerate(packs)
    )

    async def run():
        peers, got = Peers(), []
        peers.feed(opened(1, CHAT, end=False))
        for start in range(0, len(data), size):
            peers.feed(h2.frame(h2.DATA, 0, 1, data[start : start + size]))
            if start // size % 3 == 0:
                await peers.rest()
                got += texts(peers.take(), 1)
        peers.feed(h2.frame(h2.DATA, h2.END_STREAM, 1))
        await peers.until(lambda: not peers.session.calls)
        got += texts(peers.take(), 1)
        assert got == [str(number) for number in range(len(packs))]
        assert (peers.session.unread, peers.traffic.in_progress) == (0, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_messages, "TURN_SECONDS", seconds)
        patch.setattr(packed_messages, "AT_ONCE_SECONDS", seconds)
        asyncio.run(run())


PACKED = framed(message(text="a" * 5000), b"gzip")


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
@pytest.mark.parametrize("path", [NOW, LATER])
@pytest.mark.parametrize(
    ("bodies", "words"),
    [
        ([PACKED, PACKED], "another one came"),
        ([PACKED, framed(message())], "another one came"),
        ([framed(message()), PACKED], "another one came"),
        ([PACKED, b"\0\0\0\0\5ab"], "ended before its request message did"),
        ([PACKED[:-1]], "ended before its request message did"),
        ([b"\1" + pack(">I", len(PACKED) - 13) + PACKED[5:-8]], "not valid gzip: it ends too early"),
        ([b"\1\0\0\0\0"], "not valid gzip: it ends too early"),
        ([b"\1\0\0\0\3abc"], "not valid gzip: Error -3"),
        ([b"\2\0\0\0\3abc"], "compression flag 2"),
        ([framed(bytes(2**21), b"gzip")], "Decompressed message larger than max (1048576)"),
        ([b"\0" + pack(">I", 2**21)], "Received message larger than max (2097152 vs. 1048576)"),
    ],
)
async def test_what_is_wrong_is_told_in_the_same_words_sooner_or_later(monkeypatch, seconds, path, bodies, words):
    monkeypatch.setattr(packed_messages, "TURN_SECONDS", seconds)
    monkeypatch.setattr(packed_messages, "AT_ONCE_SECONDS", seconds)
    peers = Peers(max_message_bytes=2**20)
    peers.feed(opened(1, path, *bodies))
    await peers.until(lambda: not peers.session.calls)
    await peers.rest()
    assert words in peers.session.refused[1]
    assert kinds(peers.take(), 1)[:1] == [h2.HEADERS]
    assert (peers.session.unread, peers.session.line.waiting_bytes, peers.traffic.in_progress) == (0, 0, 0)


@pytest.mark.usefixtures("piecemeal")
async def test_a_stream_holds_its_client_up_while_its_messages_are_unpacked():
    peers = Peers()
    large = framed(message(text="a", padding="x" * 2**20), b"gzip")
    peers.feed(opened(1, CHAT, large, end=False))
    (call,) = peers.session.calls.values()
    assert call.withheld == len(large)
    peers.feed(h2.frame(h2.DATA, h2.END_STREAM, 1))
    await peers.until(lambda: not peers.session.calls)
    assert texts(peers.take(), 1) == ["a"]
    assert call.withheld == 0


class Gate:
    """Takes down what it is told."""

    def __init__(self):
        self.told = []

    def settle(self):
        self.told.append("settle")

    def hold_up(self):
        self.told.append("hold up")

    def let_on(self):
        self.told.append("let on")


@pytest.mark.usefixtures("piecemeal")
async def test_what_it_took_is_charged_before_the_next_is_begun():
    peers = Peers()
    session = peers.session
    gate = session.line.gate = Gate()
    large = framed(message(wait=600, text="x" * 2**20), b"gzip")
    peers.feed(opened(1, NOW, large) + opened(3, NOW, large))
    await peers.until(lambda: session.unread > OUTPUT_STEP)
    session.line.paused = True  # one that is begun goes on
    await peers.until(lambda: peers.service.waiting)
    assert gate.told == ["settle"]
    assert session.earned < 0
    await peers.rest()
    assert peers.service.waiting == 1
    assert session.unread < 2**14, "it is not begun"
    session.line.go_on()
    await peers.until(lambda: peers.service.waiting == 2)
    assert gate.told == ["settle"] * 2
    session.lose()


@pytest.mark.usefixtures("piecemeal")
async def test_no_more_is_read_while_much_waits():
    peers = Peers()
    session = peers.session
    gate = session.line.gate = Gate()
    noise = framed(random.Random(0).randbytes(300_000), b"gzip")
    for stream in (1, 3, 5, 7):
        assert not session.line.is_full
        peers.feed(opened(stream, NOW, noise))
    assert gate.told == ["hold up"]
    assert session.line.is_full
    await peers.until(lambda: not session.line.is_full)
    assert session.line.waiting_bytes <= MOST_WAITING_BYTES // 2
    assert [word for word in gate.told if word != "settle"] == ["hold up", "let on"]


async def test_compressed_requests_leave_nothing_for_the_garbage_collector():
    peers = Peers(max_message_bytes=2**21)
    with garbage() as left:
        for number, body in enumerate([PACKED, framed(LARGE, b"gzip"), BOMB[:5] + b"x" * (len(BOMB) - 5), BOMB]):
            peers.feed(opened(2 * number + 1, NOW, body))
            await peers.until(lambda: not peers.session.calls)
            await peers.rest()
            peers.take()
    assert not left


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from([NOW, LATER, CHAT]),
            st.integers(0, 300_000),
            st.sampled_from(["whole", "cut", "reset", "garbage", "two"]),
            st.integers(0, 3),
        ),
        max_size=12,
    ),
    lost=st.booleans(),
)
def test_whatever_becomes_of_them_the_window_is_given_back_and_nothing_is_held(seconds, calls, lost):
    async def run():
        peers = Peers(max_message_bytes=200_000)
        sent = let_in = 0
        for number, (path, size, how, turns) in enumerate(calls):
            stream = 2 * number + 1
            body = framed(message(text="x" * size), b"gzip")
            if how == "cut":
                body = body[:-3]
            elif how == "garbage":
                body = body[:30] + b"garbage" + body[37:]
            elif how == "two":
                body *= 2
            sent += len(body)
            peers.feed(opened(stream, path, body))
            for _ in range(turns):
                await asyncio.sleep(0)
            if how == "reset":
                peers.feed(h2.frame(h2.RST_STREAM, 0, stream, RESET))
            assert peers.session.unread == sum(call.held for call in peers.session.calls.values())
            let_in += updates(peers.take())
        if lost:
            peers.session.lose()
        await peers.until(lambda: not peers.session.calls)
        await peers.rest()
        let_in += updates(peers.take())
        assert lost or sent - let_in <= CONNECTION_WINDOW // 2
        assert lost or peers.session.unread == 0
        assert (peers.session.line.waiting_bytes, peers.traffic.in_progress) == (0, 0)
        peers.session.lose()
        await peers.rest()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_messages, "TURN_SECONDS", seconds)
        patch.setattr(packed_messages, "AT_ONCE_SECONDS", seconds)
        asyncio.run(run())


def updates(frames):
    """Bytes that the connection's window was opened by."""
    return sum(int.from_bytes(p, "big") for kind, _, stream, p in frames if (kind, stream) == (h2.WINDOW_UPDATE, 0))
