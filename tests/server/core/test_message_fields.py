import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.message_fields import has_more_fields
from conveyor_server.generated import inference_pb2 as pb

requests = st.builds(
    pb.ModelInferRequest,
    model_name=st.text(min_size=1),
    raw_input_contents=st.lists(st.binary(max_size=300), max_size=5),
    inputs=st.lists(
        st.builds(pb.ModelInferRequest.InferInputTensor, name=st.text(), shape=st.lists(st.integers(0, 2**62))),
        max_size=5,
    ),
    parameters=st.dictionaries(st.text(), st.builds(pb.InferParameter, int64_param=st.integers(0, 99)), max_size=3),
)


def fields(request):
    return 1 + len(request.raw_input_contents) + len(request.inputs) + len(request.parameters)


@given(requests)
def test_it_counts_what_protobuf_wrote(request):
    data, count = request.SerializeToString(), fields(request)
    assert not has_more_fields(data, count)
    assert has_more_fields(data, count - 1)


def test_all_kinds_of_fields_are_counted():
    # varint, eight bytes, a string, a group with a field in it, four bytes
    data = b"\x08\xff\x01" + b"\x11" + bytes(8) + b"\x1a\x02ab" + b"\x23\x08\x01\x24" + b"\x2d" + bytes(4)
    assert not has_more_fields(data, 7)
    assert has_more_fields(data, 6)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff" * 50, b"\x0e", b"\x0f\x01", b"\x12", b"\x12\x80", bytes(50)])
def test_what_is_no_message_has_none(data):
    assert not has_more_fields(data, 3)


@given(st.binary(max_size=200), st.integers(0, 20))
def test_any_bytes_are_counted_without_an_error(data, limit):
    has_more_fields(data, limit)


class Message(bytes):
    """Counts how many of its bytes are looked at."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("flood", "more", "reads"),
    [
        (Message(b"\x2a\x00" * 2**20), True, 2 * 4096),  # empty messages
        (Message(b"\xff" * 2**20), False, 10),  # a number without end
        (Message(b"\x08" + b"\xff" * 2**20), False, 11),
    ],
)
def test_a_flood_is_seen_at_its_beginning(flood, more, reads):
    assert has_more_fields(flood, 4096) is more
    assert flood.reads == reads
