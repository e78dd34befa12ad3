import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from conveyor_server.core.byte_strings import decode_byte_strings, encode_byte_strings
from conveyor_server.core.errors import InvalidRequest

texts = st.lists(st.text(st.characters(codec="utf-8")), max_size=20)


@given(texts)
def test_what_is_encoded_is_decoded(values):
    array = np.array(values, np.object_)
    assert decode_byte_strings(encode_byte_strings(array), "x", limit=len(values)).tolist() == values


@given(texts.filter(bool))
def test_a_public_client_reads_and_writes_the_same_form(values):
    array = np.array(values, np.object_)
    raw = encode_byte_strings(array)
    assert raw == serialize_byte_tensor(array).item()
    assert [value.decode() for value in deserialize_bytes_tensor(raw)] == values


@given(st.binary(max_size=50))
def test_any_bytes_are_decoded_or_refused(raw):
    try:
        values = decode_byte_strings(raw, "x", limit=5)
    except InvalidRequest:
        return
    assert encode_byte_strings(values) == raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x01\x00\x00", "incomplete string length indicator for x after 0 elements"),
        (b"\x01\x00\x00\x00a\x02\x00\x00\x00b", "incomplete string data for x in element 1"),
        (b"\x01\x00\x00\x00\xff", "element 0 of x is not UTF-8"),
        (b"\x01\x00\x00\x00a\x01\x00\x00\x00\xff", "element 1 of x is not UTF-8"),
        (b"\x00\x00\x00\x00" * 4, "unexpected number of string elements 3 for x, expecting 2"),
    ],
)
def test_faults_are_named(raw, message):
    with pytest.raises(InvalidRequest, match=message):
        decode_byte_strings(raw, "x", limit=2)
