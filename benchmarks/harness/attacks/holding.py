"""Attacks that hold what a server has for all: memory, places, streams. They send little."""

from itertools import count
from struct import pack

from harness.attacks import frames as f
from harness.attacks.attack import Attack, Prey, Reads, Script

_MANY = 4000
"""Calls on one connection, just below what is allowed by default."""


def _unread(prey: Prey, number: int) -> Script:
    """Asks for what is large, and leaves no room for it in HTTP/2's windows."""
    yield f.greeting(window=0)
    yield from _ask_for_much()


def _unread_socket(prey: Prey, number: int) -> Script:
    """The same, and leaves no room in the socket."""
    yield f.greeting(f.LARGEST_WINDOW, f.LARGEST_WINDOW)
    yield from _ask_for_much()


def _ask_for_much() -> Script:
    block = f.header_block(f.REFLECTION)
    for stream in f.streams(_MANY):
        yield f.opened(stream, block) + f.data(stream, f.message(f.LONG_DESCRIPTORS))


def _unread_refusals(prey: Prey, number: int) -> Script:
    """Statuses are not held back by windows. Each call is given up before its own is sent."""
    yield f.greeting()
    block = f.header_block("/nobody/Nothing", ("x", "y" * 100))
    for first in count(1, 200):
        yield b"".join(f.opened(stream, block) + f.reset(stream) for stream in f.streams(100, first))
        yield 0.06  # below what ends the connection


def _unfinished(prey: Prey, number: int) -> Script:
    """Thousands of requests that never end; a byte a second of each."""
    yield f.greeting()
    block = f.header_block(f.INFER)
    for stream in f.streams(_MANY):
        yield f.opened(stream, block) + f.data(stream, b"\0" + pack(">I", prey.largest // 2))
    while True:
        for stream in f.streams(_MANY):
            yield f.data(stream, b"x")
            yield 1 / _MANY


def _windows(prey: Prey, number: int) -> Script:
    """A part of one request on each of many connections, as much as may be sent at once."""
    yield f.greeting() + f.opened(1, f.header_block(f.INFER))
    yield f.data(1, b"\0" + pack(">I", prey.largest // 2) + bytes(16000))
    for _ in range(15):
        yield f.data(1, bytes(15500))
    while True:
        yield 1.0
        yield f.data(1, b"x")


def _hoarded_headers(prey: Prey, number: int) -> Script:
    """Calls with as many headers as are allowed, at a byte for each: they stand in the table of HPACK."""
    yield f.greeting()
    block = f.header_block(f.INFER) + b"\x40" + f.literal("x", "")[1:]
    yield f.opened(1, block)
    for stream in f.streams(_MANY, first=3):
        yield f.opened(stream, f.header_block(f.INFER) + b"\xbe" * 470)


def _watchers(prey: Prey, number: int) -> Script:
    """Streams that have nothing to say, and stay."""
    yield f.greeting(2**20, 2**30)
    block = f.header_block(f.WATCH)
    for stream in f.streams(_MANY):
        yield f.call(stream, block, b"")


def _silent_streams(prey: Prey, number: int) -> Script:
    """Streams of which nothing comes."""
    yield f.greeting()
    block = f.header_block(f.INFER_STREAM)
    for stream in f.streams(_MANY):
        yield f.opened(stream, block)


def _hoarded_answers(prey: Prey, number: int) -> Script:
    """Good requests on streams of whose answers nothing is read: they would count as in progress for ever."""
    yield f.greeting(window=0)
    block = f.header_block(f.INFER_STREAM)
    for stream in f.streams(60):
        yield f.opened(stream, block) + f.data(stream, f.message(prey.inference))
        yield f.data(stream, f.message(b"") * 500)


def _half_open(prey: Prey, number: int) -> Script:
    """Calls that were refused, and go on: a byte every second."""
    yield f.greeting()
    block = f.header_block("/nobody/Nothing")
    for stream in f.streams(_MANY):
        yield f.opened(stream, block)
    while True:
        for stream in f.streams(_MANY):
            yield f.data(stream, b"x")
            yield 1 / _MANY


def _half_closed(prey: Prey, number: int) -> Script:
    """Streams on which the client has said all, which is nothing."""
    yield f.greeting(window=0)
    block = f.header_block(f.INFER_STREAM)
    for first in count(1, 200):
        yield b"".join(f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, s, block) for s in f.streams(100, first))
        yield 0.05


def _idle(prey: Prey, number: int) -> Script:
    yield f.greeting() + f.ACKNOWLEDGED


def _mute(prey: Prey, number: int) -> Script:
    yield from ()


def _busy_places(prey: Prey, number: int) -> Script:
    """A call is open on each of many connections, so that none of them is idle."""
    yield f.greeting() + f.call(1, f.header_block(f.WATCH), b"")


def _refused_streams(prey: Prey, number: int) -> Script:
    """Never says that it knows the limit, and opens more and more."""
    yield f.greeting()
    block = f.header_block(f.INFER_STREAM)
    for first in count(1, 200):
        yield b"".join(f.opened(stream, block) for stream in f.streams(100, first))
        yield 0.02


HOLDING = (
    Attack("unread", "answers not read: closed windows", _unread),
    Attack("unread-socket", "answers not read: full sockets", _unread_socket, reads=Reads.NOTHING),
    Attack("dribble", "answers read by the byte", _unread_socket, reads=Reads.DRIBBLE),
    Attack("unread-refusals", "refusals not read, of calls that are reset", _unread_refusals, 20, Reads.NOTHING),
    Attack("unfinished", "requests that never end", _unfinished),
    Attack("windows", "a window full of a request on each connection", _windows, 4000),
    Attack("headers", "calls with many headers", _hoarded_headers, 8),
    Attack("watchers", "watches of health", _watchers, 8),
    Attack("silent-streams", "streams that say nothing", _silent_streams, 8),
    Attack("hoarded-answers", "answers of streams not read", _hoarded_answers),
    Attack("half-open", "refused calls that go on", _half_open, 8),
    Attack("half-closed", "streams that have ended at the client", _half_closed, 8),
    Attack("idle", "idle connections", _idle, 10_000, again=None),
    Attack("mute", "connections that say nothing", _mute, 10_000, again=None),
    Attack("busy-places", "connections with an open call", _busy_places, 10_000),
    Attack("refused-streams", "streams above the limit", _refused_streams),
)
