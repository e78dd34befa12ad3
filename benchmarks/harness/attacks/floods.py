"""Attacks that send many cheap things: frames that bring nothing, resets, small calls, connections."""

from itertools import count
from struct import pack

from harness.attacks import frames as f
from harness.attacks.attack import Attack, Prey, Script

_AT_ONCE = 500
"""Frames in one piece."""


def _endless(first: bytes, piece: bytes) -> Script:
    yield first
    while True:
        yield piece


def _pings(prey: Prey, number: int) -> Script:
    return _endless(f.greeting(), f.PINGED * _AT_ONCE)


def _settings(prey: Prey, number: int) -> Script:
    return _endless(f.greeting(), f.frame(f.SETTINGS, 0, 0, pack(">HI", 4, 65535)) * _AT_ONCE)


def _acknowledgements(prey: Prey, number: int) -> Script:
    return _endless(f.greeting(), f.frame(f.PING, f.ACK, 0, b"12345678") * _AT_ONCE)


def _priorities(prey: Prey, number: int) -> Script:
    return _endless(f.greeting(), f.frame(f.PRIORITY, 0, 3, pack(">IB", 0, 15)) * _AT_ONCE)


def _unknown_frames(prey: Prey, number: int) -> Script:
    return _endless(f.greeting(), f.frame(0xEE, 0, 0, b"") * _AT_ONCE)


def _window_updates(prey: Prey, number: int) -> Script:
    return _endless(f.greeting(), f.frame(f.WINDOW_UPDATE, 0, 0, pack(">I", 1)) * _AT_ONCE)


def _empty_data(prey: Prey, number: int) -> Script:
    return _endless(f.greeting() + f.opened(1, f.header_block(f.INFER)), f.data(1, b"") * _AT_ONCE)


def _tiny_data(prey: Prey, number: int) -> Script:
    """One byte a frame; a window of 64 KiB lets that go on for long, on one call after the other."""
    yield f.greeting()
    block = f.header_block(f.INFER)
    for stream in count(1, 2):
        yield f.opened(stream, block) + f.data(stream, b"\0" + pack(">I", 5000))
        for _ in range(8):
            yield f.data(stream, b"x") * _AT_ONCE
        yield f.reset(stream)


def _continuations(prey: Prey, number: int) -> Script:
    return _endless(
        f.greeting() + f.frame(f.HEADERS, 0, 1, f.header_block(f.INFER)),
        f.frame(f.CONTINUATION, 0, 1, f.literal("x", "y")) * _AT_ONCE,
    )


def _rapid_reset(prey: Prey, number: int) -> Script:
    yield f.greeting()
    block = f.header_block(f.INFER)
    for first in count(1, 200):
        yield b"".join(f.opened(stream, block) + f.reset(stream) for stream in f.streams(100, first))


def _resets_of_requests(prey: Prey, number: int) -> Script:
    yield f.greeting()
    block = f.header_block(f.INFER)
    for first in count(1, 20):
        yield b"".join(f.call(stream, block, prey.inference) + f.reset(stream) for stream in f.streams(10, first))
        yield 0.001  # below what ends the connection


def _bad_calls(prey: Prey, number: int) -> Script:
    yield f.greeting()
    block = f.header_block("/nobody/Nothing")
    for first in count(1, 200):
        yield b"".join(f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, s, block) for s in f.streams(100, first))


def _bad_requests(prey: Prey, number: int) -> Script:
    yield f.greeting()
    block = f.header_block(f.INFER)
    for first in count(1, 200):
        yield b"".join(f.call(stream, block, b"\x0a\x04nope") for stream in f.streams(100, first))


def _hasty_calls(prey: Prey, number: int) -> Script:
    """Deadlines that nobody could keep."""
    yield f.greeting()
    block = f.header_block(f.INFER, ("grpc-timeout", "1u"))
    for first in count(1, 20):
        yield b"".join(f.call(stream, block, prey.inference) for stream in f.streams(10, first))
        yield 0.005


def _metadata_calls(prey: Prey, number: int) -> Script:
    """Calls that take a task each."""
    yield f.greeting()
    block = f.header_block(f.METADATA)
    for first in count(1, 200):
        yield b"".join(f.call(stream, block, b"") for stream in f.streams(100, first))


def _questions(prey: Prey, number: int) -> Script:
    """Tiny messages on one stream, whose answers are large."""
    yield f.greeting(2**24, 2**30) + f.opened(1, f.header_block(f.REFLECTION))
    while True:
        yield f.data(1, f.message(f.DESCRIPTORS) * 100)


def _tiny_messages(prey: Prey, number: int) -> Script:
    """Requests that are empty, on one stream."""
    yield f.greeting(2**24, 2**30) + f.opened(1, f.header_block(f.INFER_STREAM))
    while True:
        yield f.data(1, f.message(b"") * 1000)


def _churn(prey: Prey, number: int) -> Script:
    yield f.greeting()


def _garbage(prey: Prey, number: int) -> Script:
    noise = bytes((number * 7 + place * place) % 256 for place in range(4096))
    yield noise if number % 2 else b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def _garbage_frames(prey: Prey, number: int) -> Script:
    """A good beginning, then frames of every kind with nonsense inside."""
    yield f.greeting()
    for kind in count(number):
        yield f.frame(kind % 16, kind * 37 % 256, kind % 5, bytes(kind * byte % 256 for byte in range(kind % 64)))


def _farewells(prey: Prey, number: int) -> Script:
    """Says that it goes, and stays, again and again."""
    return _endless(f.greeting(), f.frame(f.GOAWAY, 0, 0, bytes(8)) * _AT_ONCE)


def _nothing(prey: Prey, number: int) -> Script:
    """Takes all the time of the load's core that is left, and sends nothing."""
    while True:
        yield 0.0


FLOODS = (
    Attack("nothing", "nothing, but its process is busy: what of the figures below is not the server's", _nothing, 1),
    Attack("pings", "pings", _pings),
    Attack("settings", "settings", _settings),
    Attack("acknowledgements", "answers to pings that nobody sent", _acknowledgements),
    Attack("priorities", "priorities", _priorities),
    Attack("unknown-frames", "frames of a kind that does not exist", _unknown_frames),
    Attack("window-updates", "window updates", _window_updates),
    Attack("empty-data", "empty DATA", _empty_data),
    Attack("tiny-data", "DATA of one byte", _tiny_data),
    Attack("continuations", "CONTINUATION", _continuations),
    Attack("farewells", "GOAWAY", _farewells),
    Attack("rapid-reset", "calls that are reset at once", _rapid_reset),
    Attack("resets", "good requests that are reset, 10,000 a second at most", _resets_of_requests),
    Attack("bad-calls", "calls of methods that do not exist", _bad_calls),
    Attack("bad-requests", "calls of models that do not exist", _bad_requests),
    Attack("hasty-calls", "deadlines of a microsecond", _hasty_calls),
    Attack("metadata", "calls of ServerMetadata", _metadata_calls),
    Attack("questions", "questions to reflection on one stream", _questions),
    Attack("tiny-messages", "empty requests on one stream", _tiny_messages),
    Attack("churn", "connections that end when they have begun", _churn, 50, again=0.0, hangs_up=True),
    Attack("garbage", "what is no HTTP/2", _garbage, 50, again=0.01),
    Attack("garbage-frames", "frames with nonsense inside", _garbage_frames, again=0.01),
)
