import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.model import NUMPY_TYPES, ModelSpec, TensorSpec
from conveyor_server.core.tensor_contents import TYPED_FIELDS
from conveyor_server.generated import inference_pb2 as pb

NUMBERS = sorted(set(NUMPY_TYPES) - {"BYTES"})


def model(*inputs, rows=4):
    return ModelSpec("m", 1, inputs, (), rows)


def extremes(datatype, count):
    """The values of a datatype whose typed contents take most bytes."""
    dtype = NUMPY_TYPES[datatype]
    if dtype.kind in "iu":
        return [int(np.iinfo(dtype).min or np.iinfo(dtype).max)] * count
    return [True if datatype == "BOOL" else -1.5] * count


@pytest.mark.parametrize("datatype", NUMBERS)
@given(shape=st.lists(st.integers(1, 5), max_size=3), rows=st.integers(1, 6))
def test_the_largest_request_of_a_model_is_within_its_limit(datatype, shape, rows):
    """With contents in either form, whatever the values."""
    spec = model(TensorSpec("x" * 50, datatype, (-1, *shape)), rows=rows)
    count = rows * int(np.prod(shape, dtype=int))
    raw = pb.ModelInferRequest(model_name="m" * 100, id="i" * 100)
    raw.inputs.add(name="x" * 50, datatype=datatype, shape=[rows, *shape])
    if datatype in TYPED_FIELDS:
        typed = pb.ModelInferRequest.FromString(raw.SerializeToString())
        getattr(typed.inputs[0].contents, TYPED_FIELDS[datatype]).extend(extremes(datatype, count))
        assert typed.ByteSize() - 2**12 <= spec.max_request_bytes - 2**20
    raw.raw_input_contents.append(bytes(count * NUMPY_TYPES[datatype].itemsize))
    assert raw.ByteSize() - 2**12 <= spec.max_request_bytes - 2**20


def test_inputs_add_up_and_room_is_left_for_everything_else():
    spec = model(TensorSpec("a", "FP32", (-1, 28, 28)), TensorSpec("b", "INT64", (-1,)), rows=1024)
    assert spec.max_request_bytes == 1024 * 28 * 28 * 4 + 1024 * 10 + 2**20


def test_a_model_without_a_batch_axis_has_one_size():
    assert model(TensorSpec("a", "UINT8", (2, 3)), rows=0).max_request_bytes == 12 + 2**20


@pytest.mark.parametrize("odd", [TensorSpec("b", "BYTES", (-1, 3)), TensorSpec("b", "FP32", (-1, -1))])
def test_strings_and_open_axes_have_no_limit(odd):
    assert model(TensorSpec("a", "FP32", (-1, 3)), odd).max_request_bytes is None
