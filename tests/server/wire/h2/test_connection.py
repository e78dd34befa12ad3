"""A connection between a session and a socket that the test plays, in virtual time."""

import asyncio
import functools
import zlib
from itertools import count
from struct import pack

from conveyor_server.wire.h2.admission import Admission
from conveyor_server.wire.h2.connection import LINGER_SECONDS, Connection, Hub
from conveyor_server.wire.h2.limits import Ending, Ledger, Limits
from conveyor_server.wire.h2.messages import frame as framed
from conveyor_server.wire.h2.session import Shared
from conveyor_server.wire.traffic import Traffic
from support import http2_frames as h2
from support.echo_service import NAME, EchoService, message
from support.virtual_time import run_in_virtual_time

NOW, CHAT = f"/{NAME}/Now".encode(), f"/{NAME}/Chat".encode()


def in_virtual_time(test):
    @functools.wraps(test)
    def run():
        run_in_virtual_time(test())

    return run


class Socket(asyncio.Transport):
    """Takes all that is written, and is closed when it is told to be."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.closed_at = None
        self.may_abort = self.aborted = False
        self._reading = True

    def write(self, data):
        self.written += data

    def close(self):
        if self.closed_at is None:
            self.closed_at = asyncio.get_running_loop().time()

    def abort(self):
        assert self.may_abort, "An abort would throw away what was sent."
        self.aborted = True

    def pause_reading(self):
        self._reading = False

    def resume_reading(self):
        self._reading = True

    def is_reading(self):
        return self._reading

    def get_write_buffer_size(self):
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        pass


class Client:
    """The other end, which has said hello."""

    def __init__(self, **limits):
        traffic = Traffic()
        routes = {f"/{NAME}/{method}".encode(): rpc for method, rpc in EchoService().rpcs[NAME].items()}
        self.hub = Hub(
            Shared(routes, Limits(**limits), traffic, None, Admission(traffic, 100)),
            Ledger(2**30),
            lambda new: None,
            lambda: None,
        )
        self.socket = Socket()
        self.connection = Connection(self.hub)
        self.connection.connection_made(self.socket)
        self.send(h2.greeting() + h2.frame(h2.SETTINGS, h2.ACK))

    def send(self, data):
        for start in range(0, len(data), 1024):
            piece = data[start : start + 1024]
            self.connection.get_buffer(-1)[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))

    async def take(self):
        """The frames that came since the last time."""
        for _ in range(20):
            await asyncio.sleep(0)
        data, self.socket.written = self.socket.written, b""
        return h2.frames_in(data)


async def all_answered_and_sent_away(client):
    """One call, answered; and then the client has confirmed that it must leave."""
    client.send(h2.call(1, NOW, message()))
    client.connection.leave(Ending.AGE)
    [ping] = [payload for kind, flags, _, payload in await client.take() if kind == h2.PING and not flags]
    client.send(h2.frame(h2.PING, h2.ACK, 0, ping))
    assert h2.GOAWAY in [kind for kind, *_ in await client.take()]


@in_virtual_time
async def test_who_has_been_answered_and_sent_away_closes_the_connection_himself():
    """Closed at once, what he still sends would be answered by a reset, which throws away what he has not read."""
    client = Client()
    await all_answered_and_sent_away(client)
    assert client.socket.closed_at is None
    client.send(h2.frame(h2.WINDOW_UPDATE, payload=bytes([0, 1, 0, 0])) + h2.frame(h2.PING, payload=bytes(8)))
    client.send(h2.call(3, NOW, message()) + b"and what is no frame at all" * 1000)
    assert await client.take() == []
    assert client.connection in client.hub.connections
    client.connection.connection_lost(None)
    assert client.hub.empty.is_set()


@in_virtual_time
async def test_a_client_that_does_not_close_is_not_waited_for_long():
    client = Client()
    await all_answered_and_sent_away(client)
    since = asyncio.get_running_loop().time()
    await asyncio.sleep(10 * LINGER_SECONDS)
    assert client.socket.closed_at == since + LINGER_SECONDS


@in_virtual_time
async def test_the_last_call_that_is_given_up_ends_a_connection_that_leaves():
    """Then nothing is left to be sent, and so nothing else would end it."""
    client = Client()
    client.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(CHAT)))
    client.connection.leave(Ending.AGE)
    [ping] = [payload for kind, flags, _, payload in await client.take() if kind == h2.PING and not flags]
    client.send(h2.frame(h2.PING, h2.ACK, 0, ping))
    assert h2.GOAWAY in [kind for kind, *_ in await client.take()]
    client.send(h2.frame(h2.RST_STREAM, 0, 1, pack(">I", 8)))
    since = asyncio.get_running_loop().time()
    await asyncio.sleep(10 * LINGER_SECONDS)
    assert client.socket.closed_at == since + LINGER_SECONDS


GZIP = (b"grpc-encoding", b"gzip")
LIMIT = 2**24
PACKED = zlib.compress(bytes(2 * LIMIT), 9, wbits=31)
BOMB = b"\1" + pack(">I", len(PACKED)) + PACKED
"""Of zeros that are packed as tightly as can be: to unpack them takes ten times what is forgiven, on any machine."""


def bomb_on(stream):
    pieces = [BOMB[start : start + 2**14] for start in range(0, len(BOMB), 2**14)]
    return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.call_headers(NOW, GZIP)) + b"".join(
        h2.frame(h2.DATA, h2.END_STREAM if piece is pieces[-1] else 0, stream, piece) for piece in pieces
    )


async def turns_until(met, seconds=0.0):
    for _ in range(100_000):
        if met():
            return
        await asyncio.sleep(seconds)
    raise AssertionError("It never comes.")


@in_virtual_time
async def test_who_sends_a_bomb_is_not_read_for_a_while_and_no_other_one_is_begun():
    client = Client(max_message_bytes=LIMIT)
    client.send(bomb_on(1) + bomb_on(3))
    session = client.connection._session
    await turns_until(lambda: 1 not in session.calls)
    assert not client.socket.is_reading()
    for _ in range(100):
        await asyncio.sleep(0)
    assert session.unread < 2 * len(BOMB), "the second is not begun"
    since = asyncio.get_running_loop().time()
    await turns_until(client.socket.is_reading, 0.001)
    assert asyncio.get_running_loop().time() > since
    await turns_until(lambda: 3 not in session.calls)


@in_virtual_time
async def test_what_is_unpacked_counts_for_all_connections_together():
    client = Client(max_message_bytes=LIMIT)
    client.send(bomb_on(1))
    held = []

    def done():
        held.append(client.hub.ledger.held)
        return not client.connection._session.calls

    await turns_until(done)
    assert LIMIT - 2**20 < max(held) < LIMIT + 2**20
    await client.take()
    assert client.hub.ledger.held == client.connection.held == 0


@in_virtual_time
async def test_a_connection_that_is_lost_while_a_bomb_is_unpacked_leaves_nothing():
    client = Client(max_message_bytes=LIMIT)
    client.send(bomb_on(1) + bomb_on(3))
    await turns_until(lambda: client.hub.ledger.held > 2**20)
    client.connection.connection_lost(None)
    assert client.hub.ledger.held == 0
    for _ in range(3):
        await asyncio.sleep(0)
    assert not client.hub.shared.unpacker._lines


@in_virtual_time
async def test_who_sends_nothing_but_bombs_has_to_go():
    client = Client(max_message_bytes=LIMIT)
    client.socket.may_abort = True
    streams = count(1, 2)

    def gone():
        if client.socket.is_reading():
            client.send(bomb_on(next(streams)))
        return client.socket.aborted

    await turns_until(gone, 0.01)
    assert client.hub.endings[Ending.WASTE] == 1
    assert client.hub.purse.waiting == 0
    assert client.hub.ledger.held == 0


@in_virtual_time
async def test_who_is_answered_is_read_on_however_large_the_request_was():
    client = Client()
    request = framed(message(text="x" * 2**24), b"gzip")
    head = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(NOW, GZIP))
    client.send(
        head + b"".join(h2.frame(h2.DATA, 0, 1, request[at : at + 2**14]) for at in range(0, len(request), 2**14))
    )
    client.send(h2.frame(h2.DATA, h2.END_STREAM, 1))
    await turns_until(lambda: not client.connection._session.calls)
    await client.take()
    assert client.socket.is_reading()
