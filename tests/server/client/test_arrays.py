"""The client's codec against the server's: what one writes, the other reads."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conveyor_server.client.arrays import decode, encode
from conveyor_server.client.infer_request import TensorHead, Wish, compose
from conveyor_server.core.model import NUMPY_TYPES, ModelSpec, TensorSpec
from conveyor_server.core.responses import ResponseEncoder
from conveyor_server.core.tensor_contents import TYPED_FIELDS
from conveyor_server.core.tensors import decode_inputs
from conveyor_server.generated import inference_pb2 as pb

NUMBERS = sorted(set(NUMPY_TYPES) - {"BYTES", "BF16"})


def spec(datatype, shape=(-1, 2)):
    return TensorSpec("x", datatype, shape)


def at_the_server(value, model):
    """The array that the server's own codec makes of what the client sends."""
    (tensor,) = model.inputs
    shape, raw = encode(value, tensor)
    head = TensorHead(tensor.name, tensor.datatype, shape)
    request = pb.ModelInferRequest.FromString(compose(Wish("m"), (head,), [raw]))
    (array,), _ = decode_inputs(request, model)
    return array


def model(datatype, shape):
    tensor = TensorSpec("x", datatype, shape)
    return ModelSpec("m", 7, (tensor,), (tensor,), max_batch_size=8)


def arrays(datatype):
    shapes = hnp.array_shapes(min_dims=2, max_dims=3, max_side=4)
    if datatype == "BYTES":
        return hnp.arrays(object, shapes, elements=st.text(max_size=5))
    return hnp.arrays(NUMPY_TYPES[datatype], shapes)


def answer_of(spec, array, request_id=""):
    return pb.ModelInferResponse.FromString(ResponseEncoder(spec).encode([array], [0], request_id))


@pytest.mark.parametrize("datatype", [*NUMBERS, "BYTES"])
@given(data=st.data())
def test_arrays_of_every_datatype_reach_the_server_and_come_back(datatype, data):
    array = data.draw(arrays(datatype))
    described = model(datatype, (-1, *array.shape[1:]))
    turned = np.asfortranarray(array)  # the order in memory must not matter
    received = at_the_server(turned, described)
    np.testing.assert_array_equal(received, array)
    outputs = decode(answer_of(described, array, "id"))
    np.testing.assert_array_equal(outputs["x"], array)
    assert outputs["x"].dtype == array.dtype
    assert (outputs.model, outputs.version, outputs.request_id) == ("m", "7", "id")
    with pytest.raises(ValueError, match="read-only"):
        outputs["x"][...] = array


@given(hnp.arrays(np.float32, (3, 2)))
def test_bfloat16_is_rounded_as_ml_dtypes_does_it_and_comes_back_as_float32(array):
    described = model("BF16", (-1, 2))
    with np.errstate(invalid="ignore"):
        expected = array.astype(ml_dtypes.bfloat16)
    bits = at_the_server(array, described)
    nan = np.isnan(array)
    np.testing.assert_array_equal(bits[~nan], expected.view(np.uint16)[~nan])
    assert np.isnan(bits.view(ml_dtypes.bfloat16)[nan].astype(np.float32)).all()
    for same in (expected, bits):
        np.testing.assert_array_equal(at_the_server(same, described)[~nan], bits[~nan])
    answer = decode(answer_of(described, bits))["x"]
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer[~nan], expected[~nan].astype(np.float32))


@pytest.mark.parametrize(
    ("value", "datatype", "expected"),
    [
        ([[0.5, 1.0]], "FP32", np.array([[0.5, 1.0]], "f4")),
        ([[0.5, 1.0]], "FP16", np.array([[0.5, 1.0]], "f2")),
        ([[0, 255]], "UINT8", np.array([[0, 255]], "u1")),
        ([[-128, 127]], "INT8", np.array([[-128, 127]], "i1")),
        (np.array([[1, 2]], ">i4"), "INT32", np.array([[1, 2]], "i4")),
        (np.array([[1.0, 2.0]], ">f4"), "FP32", np.array([[1, 2]], "f4")),
        ([[True, False]], "BOOL", np.array([[True, False]])),
        ([["a", "grüß"]], "BYTES", np.array([["a", "grüß"]], object)),
        (np.array([["a", "b"]]), "BYTES", np.array([["a", "b"]], object)),
        (np.array([[b"a", b"b"]]), "BYTES", np.array([["a", "b"]], object)),
        (np.empty((0, 2), np.int64), "INT8", np.empty((0, 2), "i1")),
    ],
)
def test_values_of_another_width_are_taken_where_nothing_is_lost_but_precision(value, datatype, expected):
    shape, raw = encode(value, spec(datatype))
    assert shape == expected.shape
    assert bytes(raw) == bytes(encode(expected, spec(datatype))[1])


@pytest.mark.parametrize(
    ("value", "datatype", "error", "text"),
    [
        (np.zeros((1, 2), np.uint8), "FP32", TypeError, "wants float32, got uint8. Convert.*divided by 255"),
        ([[0.5, 1.0]], "INT32", TypeError, "wants int32, got float64"),
        ([[True, False]], "UINT8", TypeError, "wants uint8, got bool"),
        ([[1, 0]], "BOOL", TypeError, "wants bool, got int64"),
        ([[1, 2]], "BF16", TypeError, "wants floating point, got int64"),
        ([[0, 256]], "UINT8", ValueError, "wants uint8, got values from 0 to 256"),
        ([[-1, 0]], "UINT64", ValueError, "wants uint64, got values from -1 to 0"),
        (np.array([[2**63, 0]], np.uint64), "INT64", ValueError, "wants int64, got values from 0"),
        ([[1e6, 0.0]], "FP16", ValueError, "values that float16 cannot hold"),
        ([["a", "b"]], "FP32", TypeError, "wants float32, got <U1"),
    ],
)
def test_what_would_be_another_value_is_refused(value, datatype, error, text):
    with pytest.raises(error, match=text):
        encode(value, spec(datatype))


@pytest.mark.parametrize("datatype", sorted(TYPED_FIELDS))
def test_typed_answers_of_other_servers_are_read(datatype):
    response = pb.ModelInferResponse()
    tensor = response.outputs.add(name="x", datatype=datatype, shape=[1, 2])
    values = [b"a", b"b"] if datatype == "BYTES" else [1, 0]
    getattr(tensor.contents, TYPED_FIELDS[datatype]).extend(values)
    array = decode(response)["x"]
    assert array.tolist() == ([["a", "b"]] if datatype == "BYTES" else [[1, 0]])
    assert array.dtype == NUMPY_TYPES[datatype]


def answer(datatype="FP32", shape=(1, 2), raws=(b"\0" * 8,), **contents):
    response = pb.ModelInferResponse(raw_output_contents=raws)
    response.outputs.add(name="x", datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents))
    return response


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (pb.ModelInferResponse(), "0 raw contents came for 0 outputs"),
        (answer(raws=[b"", b""]), "2 raw contents came for 1 outputs"),
        (answer(raws=[b"\0" * 12]), r"'x' of FP32 \[1, 2\] cannot be read: cannot reshape"),
        (answer(raws=[b"\0" * 7]), "cannot be read: buffer size"),
        (answer(datatype="FP8"), "cannot be read: the datatype is unknown"),
        (answer(datatype="BYTES", raws=[b"\xff"]), "cannot be read: incomplete string length"),
        (answer(shape=(-1, 2), raws=[b"\0" * 16]), "cannot be read: its shape has no size"),
        (answer(datatype="FP16", raws=[]), "no raw contents"),
        (answer(datatype="INT8", raws=[], int_contents=[300, 0]), "cannot be read"),
        (answer(datatype="BYTES", raws=[], bytes_contents=[b"\xff", b""]), "cannot be read"),
    ],
)
def test_an_answer_that_contradicts_itself_is_an_error(response, text):
    with pytest.raises(ValueError, match=text):
        decode(response)
