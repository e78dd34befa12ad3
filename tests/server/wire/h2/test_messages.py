from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.errors import InvalidRequest, MessageTooLarge
from conveyor_server.wire.h2.messages import MessageReader, frame, whole_message

LIMIT = 1000


def pieces_of(data, cuts):
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(edges)]


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(0, 5000), max_size=40))
def test_messages_come_out_whole_and_in_order_however_they_are_cut(messages, cuts):
    reader = MessageReader(LIMIT)
    got = []
    for piece in pieces_of(b"".join(map(frame, messages)), cuts):
        got += reader.feed(piece)
    assert got == messages
    assert reader.held == 0


@given(st.binary(max_size=400), st.integers(0, 404))
def test_what_is_held_is_what_came_of_an_unfinished_message(message, cut):
    data = frame(message)
    reader = MessageReader(LIMIT)
    assert reader.feed(data[:cut]) == ([message] if cut >= len(data) else [])
    assert reader.held == (0 if cut >= len(data) else cut)


@given(st.binary(max_size=300), st.binary(max_size=8))
def test_a_piece_that_is_one_message_is_read_at_once_and_no_other(message, more):
    data = frame(message)
    assert whole_message(data, LIMIT) == message
    if more:
        assert whole_message(data + more, LIMIT) is None
        assert whole_message(data[:-1], LIMIT) is None


def test_many_tiny_pieces_are_kept_in_few():
    data = frame(b"x" * 900)
    reader = MessageReader(LIMIT)
    got = []
    for byte in data:
        got += reader.feed(bytes([byte]))
        assert len(reader._pieces) < 200
    assert got == [b"x" * 900]


@pytest.mark.parametrize("length", [LIMIT + 1, 2**31, 2**32 - 1])
def test_a_message_that_says_it_will_be_too_large_is_refused_at_its_first_bytes(length):
    prefix = b"\0" + length.to_bytes(4, "big")
    with pytest.raises(MessageTooLarge, match=rf"\({length} vs\. {LIMIT}\)"):
        MessageReader(LIMIT).feed(prefix)


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_a_compressed_message_is_refused_where_the_headers_name_no_encoding(flag):
    data = bytes([flag]) + frame(b"abc")[1:]
    with pytest.raises(InvalidRequest, match=f"the compression flag {flag}"):
        MessageReader(LIMIT).feed(data)
    with pytest.raises(InvalidRequest, match=f"the compression flag {flag}"):
        whole_message(data, LIMIT)


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_garbage_never_does_anything_but_raise_ours(pieces):
    reader = MessageReader(LIMIT)
    try:
        for piece in pieces:
            reader.feed(piece)
            assert reader.held <= LIMIT + 5 + 50
    except (InvalidRequest, MessageTooLarge):
        pass
