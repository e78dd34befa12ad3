import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.client.infer_request import TensorHead, Wish, compose, read_parameters
from conveyor_server.generated import inference_pb2 as pb

names = st.text(max_size=6)
wishes = st.builds(
    Wish,
    model=names,
    version=names,
    outputs=st.lists(names, max_size=3).map(tuple),
    parameters=st.dictionaries(
        names,
        st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), names),
        max_size=3,
    ).map(read_parameters),
)
heads = st.builds(TensorHead, names, st.sampled_from(["FP32", "BYTES"]), st.lists(st.integers(0, 9)).map(tuple))
inputs = st.lists(st.tuples(heads, st.binary(max_size=300)), max_size=3)


@given(wishes, inputs, names)
def test_the_bytes_are_those_of_the_message(wish, inputs, request_id):
    expected = pb.ModelInferRequest(model_name=wish.model, model_version=wish.version, id=request_id)
    for head, content in inputs:
        expected.inputs.add(name=head.name, datatype=head.datatype, shape=head.shape)
        expected.raw_input_contents.append(content)
    for name in wish.outputs:
        expected.outputs.add(name=name)
    for name, field, value in wish.parameters:
        setattr(expected.parameters[name], field, value)
    message = compose(
        wish, tuple(head for head, _ in inputs), [memoryview(content) for _, content in inputs], request_id
    )
    assert pb.ModelInferRequest.FromString(message) == expected


@pytest.mark.parametrize("size", [0, 1, 127, 128, 2**14 - 1, 2**14, 2**21 + 1])
def test_lengths_of_every_size(size):
    array = np.ones(size, np.uint8)
    message = pb.ModelInferRequest.FromString(compose(Wish("m"), (), [array.data]))
    assert message.raw_input_contents == [array.tobytes()]


def test_equal_values_of_different_types_stay_different():
    one, true, real = (Wish("m", parameters=read_parameters({"p": value})) for value in (1, True, 1.0))
    assert len({one, true, real}) == 3
    kinds = [
        pb.ModelInferRequest.FromString(compose(wish, (), [])).parameters["p"].WhichOneof("parameter_choice")
        for wish in (one, true, real)
    ]
    assert kinds == ["int64_param", "bool_param", "double_param"]
