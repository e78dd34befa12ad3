"""Unpacked by pieces is unpacked at once: the same message, or the same error."""

import gzip
import tracemalloc
import zlib
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.errors import InvalidRequest, MessageTooLarge, RequestError
from conveyor_server.wire.h2.messages import PREFIX_BYTES, frame
from conveyor_server.wire.h2.unpacking import INPUT_STEP, OUTPUT_STEP, STATE_BYTES, WAITING_BYTES, Unpacking

ENCODINGS = {b"gzip": 31, b"deflate": 15}
NEVER, ALWAYS = 0.0, float("inf")
"""Times until which to go on: a piece, or all of it."""
MIB = 2**20


def packed(message, encoding, level=6):
    stream = zlib.compressobj(level, zlib.DEFLATED, ENCODINGS[encoding])
    return stream.compress(message) + stream.flush()


def by_pieces(payload, encoding, limit):
    """The message, and how many pieces it took."""
    unpacking, pieces = Unpacking(payload, encoding, limit), 1
    while (message := unpacking.go_on(NEVER)) is None:
        assert len(payload) < unpacking.held <= len(payload) + limit + STATE_BYTES + WAITING_BYTES
        pieces += 1
    return message, pieces


def outcome(unpack, *arguments):
    try:
        return unpack(*arguments)
    except RequestError as error:
        return type(error), str(error)


def at_once(payload, encoding, limit):
    """What is to come out, by the library alone."""
    stream = zlib.decompressobj(ENCODINGS[encoding])
    try:
        message = stream.decompress(payload, limit + 1)
    except zlib.error as error:
        return InvalidRequest, f"a message is not valid {encoding.decode()}: {error}"
    if len(message) > limit:
        return MessageTooLarge, f"Decompressed message larger than max ({limit})"
    if not stream.eof:
        return InvalidRequest, f"a message is not valid {encoding.decode()}: it ends too early"
    return message


def same(payload, encoding, limit):
    expected = at_once(payload, encoding, limit)
    assert outcome(lambda: by_pieces(payload, encoding, limit)[0]) == expected
    assert outcome(Unpacking(payload, encoding, limit).go_on, ALWAYS) == expected
    return expected


RUNS = st.builds(lambda byte, count: bytes([byte]) * count, st.integers(0, 255), st.integers(0, 300_000))
MESSAGES = st.lists(st.one_of(st.binary(max_size=200), RUNS), max_size=4).map(b"".join)


@given(MESSAGES, st.sampled_from(list(ENCODINGS)), st.integers(0, 9))
def test_a_message_comes_out_whole(message, encoding, level):
    payload = packed(message, encoding, level)
    assert same(payload, encoding, len(message)) == message


@given(MESSAGES, st.sampled_from(list(ENCODINGS)), st.integers(-3, 3))
def test_the_limit_is_exact(message, encoding, more):
    limit = max(0, len(message) + more)
    found = same(packed(message, encoding), encoding, limit)
    assert (found == message) == (limit >= len(message))


@pytest.mark.parametrize("size", [0, 1, OUTPUT_STEP - 1, OUTPUT_STEP, OUTPUT_STEP + 1, 3 * OUTPUT_STEP])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("level", [0, 1, 9])
def test_the_ends_of_pieces_are_no_ends_of_messages(size, encoding, level):
    for message in (bytes(size), bytes(range(256)) * (size // 256)):
        payload = packed(message, encoding, level)
        for limit in {max(0, len(message) - 1), len(message), len(message) + 1, OUTPUT_STEP}:
            same(payload, encoding, limit)


@given(MESSAGES, st.sampled_from(list(ENCODINGS)), st.data())
def test_what_is_cut_short_or_changed_or_goes_on_is_what_it_is_at_once(message, encoding, data):
    payload = packed(message, encoding, data.draw(st.integers(0, 9)))
    kind = data.draw(st.sampled_from(["cut", "changed", "longer"]))
    at = data.draw(st.integers(0, len(payload) - 1))
    if kind == "cut":
        payload = payload[:at]
    elif kind == "changed":
        payload = payload[:at] + bytes([payload[at] ^ data.draw(st.integers(1, 255))]) + payload[at + 1 :]
    else:
        payload += data.draw(st.binary(min_size=1, max_size=20))
    same(payload, encoding, data.draw(st.sampled_from([len(message), len(message) // 2, 10**6])))


@given(st.binary(max_size=100), st.sampled_from(list(ENCODINGS)), st.booleans())
def test_garbage_is_refused_as_at_once(payload, encoding, headed):
    head = {b"gzip": gzip.compress(b"")[:10], b"deflate": zlib.compress(b"")[:2]}[encoding]
    same(head + payload if headed else payload, encoding, 1000)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_piece_is_bounded_by_what_goes_in_and_by_what_comes_out(encoding):
    _, pieces = by_pieces(packed(bytes(4 * MIB), encoding), encoding, 4 * MIB)
    assert pieces >= 4 * MIB // OUTPUT_STEP
    nothing = zlib.compressobj(9, zlib.DEFLATED, ENCODINGS[encoding])
    payload = (
        b"".join(nothing.flush(zlib.Z_FULL_FLUSH) + nothing.compress(b"a") for _ in range(10_000)) + nothing.flush()
    )
    message, pieces = by_pieces(payload, encoding, MIB)
    assert len(message) == 10_000
    assert pieces >= len(payload) // INPUT_STEP


def test_it_goes_on_for_as_long_as_it_may():
    unpacking = Unpacking(packed(bytes(4 * MIB), b"gzip"), b"gzip", 4 * MIB)
    assert unpacking.go_on(perf_counter()) is None
    assert unpacking.held < MIB
    assert unpacking.go_on(ALWAYS) == bytes(4 * MIB)


def test_a_bomb_takes_no_more_memory_than_its_limit():
    bomb = frame(bytes(64 * MIB), b"gzip")[PREFIX_BYTES:]
    tracemalloc.start()
    try:
        assert outcome(by_pieces, bomb, b"gzip", MIB)[0] is MessageTooLarge
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * MIB


def test_what_waits_takes_what_came_and_little_more():
    unpacking = Unpacking(payload := packed(b"abc", b"gzip"), b"gzip", 10)
    assert not unpacking.begun
    assert unpacking.held == unpacking.waiting_bytes == len(payload) + WAITING_BYTES
