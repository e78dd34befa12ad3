import gzip
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.errors import InvalidRequest, MessageTooLarge
from conveyor_server.wire.h2.messages import MessageReader, frame, whole_message

LIMIT = 1000
ENCODINGS = ["identity", "gzip", "deflate"]


def pieces_of(data, cuts):
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(edges)]


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=6),
    st.sampled_from(ENCODINGS),
    st.lists(st.integers(0, 5000), max_size=40),
)
def test_messages_come_out_whole_and_in_order_however_they_are_cut(messages, encoding, cuts):
    name = encoding.encode()
    data = b"".join(frame(message, name if compressed else b"identity") for message, compressed in messages)
    reader = MessageReader(name, LIMIT, LIMIT)
    got = []
    for piece in pieces_of(data, cuts):
        got += reader.feed(piece)
    assert got == [message for message, _ in messages]
    assert reader.held == 0


@given(st.binary(max_size=400), st.integers(0, 404))
def test_what_is_held_is_what_came_of_an_unfinished_message(message, cut):
    data = frame(message)
    reader = MessageReader(b"identity", LIMIT, LIMIT)
    assert reader.feed(data[:cut]) == ([message] if cut >= len(data) else [])
    assert reader.held == (0 if cut >= len(data) else cut)


@given(st.binary(max_size=300), st.sampled_from(ENCODINGS), st.binary(max_size=8))
def test_a_piece_that_is_one_message_is_read_at_once_and_no_other(message, encoding, more):
    data = frame(message, encoding.encode())
    assert whole_message(data, encoding.encode(), LIMIT, LIMIT) == message
    if more:
        assert whole_message(data + more, encoding.encode(), LIMIT, LIMIT) is None
        assert whole_message(data[:-1], encoding.encode(), LIMIT, LIMIT) is None


def test_many_tiny_pieces_are_kept_in_few():
    data = frame(b"x" * 900)
    reader = MessageReader(b"identity", LIMIT, LIMIT)
    got = []
    for byte in data:
        got += reader.feed(bytes([byte]))
        assert len(reader._pieces) < 200
    assert got == [b"x" * 900]


@pytest.mark.parametrize("length", [LIMIT + 1, 2**31, 2**32 - 1])
def test_a_message_that_says_it_will_be_too_large_is_refused_at_its_first_bytes(length):
    prefix = b"\0" + length.to_bytes(4, "big")
    with pytest.raises(MessageTooLarge, match=rf"\({length} vs\. {LIMIT}\)"):
        MessageReader(b"identity", LIMIT, LIMIT).feed(prefix)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_stops_at_the_limit(encoding):
    bomb = frame(b"\0" * 10**8, encoding.encode())
    assert len(bomb) < 10**6
    with pytest.raises(MessageTooLarge, match="Decompressed message larger than max"):
        MessageReader(encoding.encode(), 10**7, 10**6).feed(bomb)


@pytest.mark.parametrize(
    ("flag", "payload", "encoding"),
    [
        (1, b"abc", "identity"),  # compressed by nothing that the headers name
        (2, b"abc", "gzip"),
        (1, b"abc", "gzip"),
        (1, gzip.compress(b"x" * 100)[:-10], "gzip"),
        (1, zlib.compress(b"x" * 100), "gzip"),
        (1, gzip.compress(b"x" * 100), "deflate"),
    ],
)
def test_what_is_not_what_the_headers_say_is_refused(flag, payload, encoding):
    data = bytes([flag]) + len(payload).to_bytes(4, "big") + payload
    with pytest.raises(InvalidRequest):
        MessageReader(encoding.encode(), LIMIT, LIMIT).feed(data)


@given(st.lists(st.binary(max_size=50), max_size=20), st.sampled_from(ENCODINGS))
def test_garbage_never_does_anything_but_raise_ours(pieces, encoding):
    reader = MessageReader(encoding.encode(), LIMIT, LIMIT)
    try:
        for piece in pieces:
            reader.feed(piece)
            assert reader.held <= LIMIT + 5 + 50
    except (InvalidRequest, MessageTooLarge):
        pass
