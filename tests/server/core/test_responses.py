import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conveyor_server.core.model import ModelSpec, TensorSpec
from conveyor_server.core.responses import ResponseEncoder
from conveyor_server.core.varint import varint
from conveyor_server.generated import inference_pb2 as pb

SPEC = ModelSpec(
    "m",
    3,
    inputs=(),
    outputs=(TensorSpec("a", "FP32", (-1, -1)), TensorSpec("b", "INT64", (-1,)), TensorSpec("c", "BYTES", (-1,))),
    max_batch_size=8,
)
ROWS = st.integers(0, 5)


@st.composite
def outputs(draw):
    rows = draw(ROWS)
    return [
        draw(hnp.arrays(np.float32, (rows, draw(st.integers(0, 200))), elements=st.floats(width=32, allow_nan=False))),
        draw(hnp.arrays(np.int64, (rows,))),
        np.array([f"w{number}" for number in range(rows)], np.object_),
    ]


@given(st.lists(outputs(), min_size=1, max_size=4), st.permutations(range(3)), st.integers(0, 3), st.text(max_size=300))
def test_a_response_is_what_protobuf_would_have_written(batches, order, count, name):
    encoder = ResponseEncoder(SPEC)
    wanted = order[:count]
    for arrays in batches:
        response = pb.ModelInferResponse.FromString(encoder.encode(arrays, wanted, name))
        assert (response.model_name, response.model_version, response.id) == ("m", "3", name)
        assert [output.name for output in response.outputs] == [SPEC.outputs[index].name for index in wanted]
        for index, output, raw in zip(wanted, response.outputs, response.raw_output_contents, strict=True):
            assert output.datatype == SPEC.outputs[index].datatype
            assert tuple(output.shape) == arrays[index].shape
            if output.datatype == "BYTES":
                expected = b"".join(len(v).to_bytes(4, "little") + v.encode() for v in arrays[index])
            else:
                expected = arrays[index].tobytes()
            assert raw == expected


def test_an_output_that_became_class_names_is_bytes():
    classes = np.array([["0.5:1", "0.25:0"]], np.object_)
    response = pb.ModelInferResponse.FromString(ResponseEncoder(SPEC).encode([classes], [0], ""))
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [1, 2])


@given(st.integers(0, 2**62))
def test_a_varint_is_protobufs(number):
    message = pb.ModelInferRequest()
    message.parameters["n"].int64_param = number
    assert varint(number) in message.SerializeToString() or number == 0
