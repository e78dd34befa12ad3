from contextlib import suppress
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.errors import InvalidRequest, MessageTooLarge, UnknownMethod
from conveyor_server.wire.h2.headers import (
    HeadReader,
    NoGrpcRequest,
    metadata_headers,
    percent_encode,
    read_head,
    read_timeout,
    refusal_headers,
)
from conveyor_server.wire.status import Status

HEADERS = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/C"),
    (b":authority", b"here"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)


def changed(**fields):
    names = {name.replace("_", "-").encode(): value for name, value in fields.items()}
    kept = [(name, value) for name, value in HEADERS if name not in names and name.lstrip(b":") not in names]
    return (*kept, *((name, value.encode()) for name, value in names.items() if value is not None))


def test_what_a_call_says():
    headers = (*HEADERS, (b"grpc-timeout", b"250m"), (b"grpc-encoding", b"gzip"), (b"x-mine", b"1"))
    head, timeout = HeadReader(10_000).read(headers)
    assert (head.path, head.method, timeout, head.encoding) == (b"/a.B/C", "C", 0.25, b"gzip")
    assert head.metadata["x-mine"] == "1"
    assert not any(name.startswith(":") for name in head.metadata)


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"])
def test_content_types_of_grpc(kind):
    assert read_head(changed(content_type=kind)).method == "C"


@pytest.mark.parametrize("kind", ["text/html", "application/grpc-web", "application/grpc+json", "", None])
def test_other_content_types_are_no_grpc(kind):
    with pytest.raises(NoGrpcRequest) as caught:
        read_head(changed(content_type=kind))
    assert caught.value.status == 415


def test_other_methods_are_no_grpc():
    with pytest.raises(NoGrpcRequest) as caught:
        read_head(((b":method", b"GET"), *HEADERS[1:]))
    assert caught.value.status == 405


def test_an_encoding_that_is_not_known_is_refused_and_the_answer_names_those_that_are():
    with pytest.raises(UnknownMethod, match="snappy"):
        read_head(changed(grpc_encoding="snappy"))
    assert (b"grpc-accept-encoding", b"identity,gzip,deflate") in refusal_headers(Status.UNIMPLEMENTED, "x")


@pytest.mark.parametrize(
    ("text", "seconds"), [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("5u", 5e-6), ("99999999n", 0.099999999)]
)
def test_timeouts(text, seconds):
    assert read_timeout(text.encode()) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "5", "5s", "-5S", "1.5S", "123456789S", "٣S", "5 S", "5SS"])
def test_timeouts_that_are_none(text):
    with pytest.raises(InvalidRequest, match="malformed"):
        read_timeout(text.encode())


@given(st.binary(max_size=12))
def test_any_timeout_is_seconds_or_refused(value):
    with suppress(InvalidRequest):
        assert read_timeout(value) >= 0


@given(st.text(max_size=80))
def test_a_status_text_is_printable_ascii_and_comes_back(text):
    encoded = percent_encode(text)
    assert all(32 <= byte < 127 for byte in encoded)
    assert unquote_to_bytes(encoded) == text.encode("utf-8", "replace")


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126))
NAMES = st.from_regex(r"x-[a-z]{1,8}", fullmatch=True)


@given(st.dictionaries(NAMES, PRINTABLE), st.dictionaries(NAMES.map("{}-bin".format), st.binary(max_size=30)))
def test_metadata_come_back(texts, binaries):
    metadata = {**texts, **binaries}
    assert read_head((*HEADERS, *metadata_headers(metadata))).metadata.items() >= metadata.items()


def test_binary_metadata_with_and_without_padding_and_none_at_all():
    headers = ((b"a-bin", b"AAE="), (b"b-bin", b"AAE"), (b"c-bin", b"\xff\xff"))
    metadata = read_head((*HEADERS, *headers)).metadata
    assert (metadata["a-bin"], metadata["b-bin"], metadata["c-bin"]) == (b"\0\1", b"\0\1", b"")


def test_headers_that_are_too_large():
    with pytest.raises(MessageTooLarge, match=r"vs\. 300"):
        HeadReader(300).read((*HEADERS, (b"x", b"y" * 100)))


def test_equal_headers_are_read_once():
    reader = HeadReader(10_000)
    first, timeout = reader.read(HEADERS)
    assert timeout is None
    assert reader.read(tuple((bytes(bytearray(n)), bytes(bytearray(v))) for n, v in HEADERS)) == (first, None)
    assert reader.read(HEADERS)[0] is first


@given(st.lists(st.tuples(st.sampled_from([None, "1S", "20m", "5u"]), st.sampled_from([None, "a", "b"])), max_size=20))
def test_what_is_remembered_is_what_would_be_read(calls):
    reader = HeadReader(10_000)
    for timeout, mine in calls:
        headers = changed(grpc_timeout=timeout, x_mine=mine)
        head, seconds = reader.read(headers)
        assert seconds == (None if timeout is None else read_timeout(timeout.encode()))
        assert head.metadata == read_head(headers).metadata
