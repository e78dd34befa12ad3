import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conveyor_server.core.byte_strings import MAX_STRINGS, encode_byte_strings
from conveyor_server.core.errors import InvalidRequest
from conveyor_server.core.model import NUMPY_TYPES, ModelSpec, TensorSpec
from conveyor_server.core.responses import ResponseEncoder
from conveyor_server.core.tensor_contents import MAX_TYPED, TYPED_FIELDS
from conveyor_server.core.tensors import decode_inputs, decode_outputs
from conveyor_server.generated import inference_pb2 as pb

IMAGES = ModelSpec(
    "digits",
    1,
    inputs=(TensorSpec("image", "FP32", (-1, 2, 2, 1)),),
    outputs=(TensorSpec("probabilities", "FP32", (-1, 10)), TensorSpec("logits", "FP32", (-1, 10))),
    max_batch_size=4,
)
PAIR = ModelSpec(
    "pair",
    1,
    inputs=(TensorSpec("a", "INT32", (-1, 2)), TensorSpec("b", "INT32", (-1, 2))),
    outputs=(TensorSpec("sum", "INT32", (-1, 2)),),
    max_batch_size=8,
)


def request(*tensors, outputs=(), raw=None):
    message = pb.ModelInferRequest(model_name="m")
    for name, datatype, array in tensors:
        message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw is None:
            message.raw_input_contents.append(array.tobytes())
    if raw is not None:
        message.raw_input_contents.extend(raw)
    for name in outputs:
        message.outputs.add(name=name)
    return message


def image(*shape, dtype=np.float32):
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


GOOD = image(2, 2, 2, 1)
NO_DATA = pb.ModelInferRequest(
    inputs=[pb.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=GOOD.shape)]
)


def typed(datatype, shape, **contents):
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="image", datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents)
    )
    return pb.ModelInferRequest(inputs=[tensor])


def both():
    message = request(("image", "FP32", GOOD))
    message.inputs[0].contents.fp32_contents.extend(GOOD.reshape(-1))
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            request(),
            "expected 1 inputs but got 0 inputs for model 'digits'. Got input(s) [], but missing required input(s) "
            "['image']. Please provide all required input(s).",
        ),
        (
            request(("img", "FP32", GOOD)),
            "unexpected inference input 'img' for model 'digits'. Its inputs are 'image'.",
        ),
        (request(("image", "FP32", GOOD), ("image", "FP32", GOOD)), "input 'image' already exists in request"),
        (
            request(("image", "FP64", GOOD.astype("f8"))),
            "'image' data-type is 'FP64', but model 'digits' expects 'FP32'",
        ),
        (request(("image", "FP999", GOOD)), "data-type is 'FP999', but model 'digits' expects 'FP32'"),
        (
            request(("image", "FP32", image(1, 2, 2, 2))),
            "unexpected shape for input 'image' for model 'digits'. Expected [-1,2,2,1], got [1,2,2,2].",
        ),
        (
            request(("image", "FP32", image(2, 2, 1))),
            "got [2,2,1]. The first axis is the batch: send [1,2,2,1] for one row.",
        ),
        (request(("image", "FP32", image(9, 2))), "Expected [-1,2,2,1], got [9,2]."),
        (request(("image", "FP32", image())), "input 'image' has no shape but model requires batch dimension"),
        (request(("image", "FP32", image(5, 2, 2, 1))), "batch-size must be <= 4 for 'digits' and at least 1, got 5"),
        (request(("image", "FP32", image(0, 2, 2, 1))), "batch-size must be <= 4 for 'digits' and at least 1, got 0"),
        (
            request(("image", "FP32", GOOD), raw=[b"123"]),
            "input byte size mismatch for input 'image' for model 'digits'. Expected 32, got 3",
        ),
        (request(("image", "FP32", GOOD), raw=[b"", b""]), "raw_input_contents has 2 entries for 1 inputs"),
        (NO_DATA, "unable to find data for input tensor 'image' for model 'digits' in request"),
        (both(), "contents field must not be specified when using raw_input_contents for 'image'"),
        (
            typed("FP32", GOOD.shape, int_contents=range(8)),
            "unexpected explicit tensor data for input tensor 'image' for model 'digits': int_contents came, "
            "fp32_contents is the field of datatype 'FP32'",
        ),
        (
            typed("FP32", GOOD.shape, int_contents=[1], fp32_contents=range(8)),
            "int_contents, fp32_contents came, fp32_contents is the field",
        ),
        (
            typed("FP32", GOOD.shape, fp32_contents=range(7)),
            "expected 8 elements for inference input 'image' for model 'digits', got 7",
        ),
    ],
)
def test_faults_are_named_with_what_was_expected_and_what_came(message, text):
    with pytest.raises(InvalidRequest) as caught:
        decode_inputs(message, IMAGES)
    assert text in str(caught.value)


def test_a_negative_size_is_refused():
    message = request(("image", "FP32", GOOD))
    message.inputs[0].shape[0] = -1
    with pytest.raises(InvalidRequest, match="at least 1, got -1"):
        decode_inputs(message, IMAGES)


def test_inputs_must_agree_on_the_batch():
    message = request(("a", "INT32", image(2, 2, dtype=np.int32)), ("b", "INT32", image(3, 2, dtype=np.int32)))
    with pytest.raises(InvalidRequest, match="input 'b' batch size does not match other inputs for 'pair': 3 and 2"):
        decode_inputs(message, PAIR)


def test_inputs_come_in_the_order_of_the_model():
    a, b = image(2, 2, dtype=np.int32), image(2, 2, dtype=np.int32) + 10
    (first, second), rows = decode_inputs(request(("b", "INT32", b), ("a", "INT32", a)), PAIR)
    np.testing.assert_array_equal(first, a)
    np.testing.assert_array_equal(second, b)
    assert rows == 2


@pytest.mark.parametrize("name", ["nope", ""])
def test_an_unknown_output_is_named(name):
    with pytest.raises(InvalidRequest, match=f"unexpected inference output '{name}' for model 'digits'"):
        decode_outputs(request(outputs=[name]), IMAGES)


def test_outputs_come_as_asked_for():
    assert decode_outputs(request(), IMAGES) == (0, 1)
    assert decode_outputs(request(outputs=["logits"]), IMAGES) == (1,)
    assert decode_outputs(request(outputs=["logits", "probabilities"]), IMAGES) == (1, 0)
    with pytest.raises(InvalidRequest, match="output 'logits' already exists in request"):
        decode_outputs(request(outputs=["logits", "logits"]), IMAGES)


def test_raw_numbers_are_read_in_place():
    (array,), _ = decode_inputs(request(("image", "FP32", GOOD)), IMAGES)
    assert not array.flags.owndata
    assert not array.flags.writeable


def spec_of(datatype, rank=1):
    tensor = TensorSpec("x", datatype, (-1,) * (rank + 1))
    return ModelSpec("m", 3, (tensor,), (tensor,), max_batch_size=100)


def arrays(datatype):
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=5)
    if datatype == "BYTES":
        return hnp.arrays(
            np.object_, shapes, elements=st.text(st.characters(codec="utf-8"), max_size=5), fill=st.nothing()
        )
    return hnp.arrays(NUMPY_TYPES[datatype], shapes)


@given(st.sampled_from(sorted(NUMPY_TYPES)).flatmap(lambda name: st.tuples(st.just(name), arrays(name))))
def test_every_datatype_survives_the_way_in_and_out(case):
    datatype, array = case
    spec = spec_of(datatype)
    raw = encode_byte_strings(array) if datatype == "BYTES" else array.tobytes()
    (decoded,), rows = decode_inputs(request(("x", datatype, array), raw=[raw]), spec)
    assert (decoded.dtype, decoded.shape, rows) == (array.dtype, array.shape, len(array))
    response = pb.ModelInferResponse.FromString(ResponseEncoder(spec).encode([decoded], [0], "id 7"))
    assert response.raw_output_contents[0] == raw
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "id 7")
    assert list(response.outputs[0].shape) == list(array.shape)


@given(st.sampled_from(sorted(TYPED_FIELDS)).flatmap(lambda name: st.tuples(st.just(name), arrays(name))))
def test_typed_contents_are_read_as_raw_ones(case):
    datatype, array = case
    flat = array.reshape(-1).tolist()
    values = [value.encode() for value in flat] if datatype == "BYTES" else flat
    message = pb.ModelInferRequest()
    tensor = message.inputs.add(name="x", datatype=datatype, shape=array.shape)
    getattr(tensor.contents, TYPED_FIELDS[datatype]).extend(values)
    (decoded,), _ = decode_inputs(message, spec_of(datatype))
    assert decoded.dtype == array.dtype
    assert decoded.tobytes() == array.tobytes() if datatype != "BYTES" else decoded.tolist() == array.tolist()


def test_half_precision_has_no_typed_field():
    message = pb.ModelInferRequest()
    message.inputs.add(name="x", datatype="FP16", shape=[1, 1]).contents.fp32_contents.append(1.0)
    with pytest.raises(InvalidRequest, match="FP16 goes in raw_input_contents"):
        decode_inputs(message, spec_of("FP16"))


@pytest.mark.parametrize(
    ("datatype", "values"), [("INT8", {"int_contents": [300]}), ("UINT8", {"uint_contents": [256]})]
)
def test_a_typed_value_out_of_range_is_refused(datatype, values):
    message = pb.ModelInferRequest()
    tensor = message.inputs.add(name="x", datatype=datatype, shape=[1, 1])
    tensor.contents.CopyFrom(pb.InferTensorContents(**values))
    with pytest.raises(InvalidRequest, match=f"has a value that is not {datatype}"):
        decode_inputs(message, spec_of(datatype))


def strings(shape, raw=None, **contents):
    message = pb.ModelInferRequest(raw_input_contents=raw)
    tensor = message.inputs.add(name="x", datatype="BYTES", shape=shape)
    if contents:
        tensor.contents.CopyFrom(pb.InferTensorContents(**contents))
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            strings([1, 3], raw=[b"\0\0\0\0" * 2]),
            "expected 3 string elements for inference input 'x' for model 'm', got 2",
        ),
        (
            strings([1, 3], raw=[b"\0\0\0\0" * 5]),
            "unexpected number of string elements 4 for inference input 'x' for model 'm', expecting 3",
        ),
        (
            strings([1, 3], bytes_contents=[b""]),
            "expected 3 string elements for inference input 'x' for model 'm', got 1",
        ),
        (strings([1, 2], bytes_contents=[b"", b"\xff"]), "element 1 of inference input 'x' for model 'm' is not UTF-8"),
    ],
)
def test_faults_of_strings_are_named(message, text):
    with pytest.raises(InvalidRequest) as caught:
        decode_inputs(message, spec_of("BYTES"))
    assert text in str(caught.value)


def test_values_that_are_read_one_by_one_are_bounded():
    """So that no request keeps all others waiting."""
    many = strings([1, MAX_STRINGS + 1], raw=[b"\0\0\0\0" * (MAX_STRINGS + 1)])
    with pytest.raises(InvalidRequest, match=f"at most {MAX_STRINGS} strings"):
        decode_inputs(many, spec_of("BYTES"))
    many = strings([1, MAX_STRINGS + 1], bytes_contents=[b""] * (MAX_STRINGS + 1))
    with pytest.raises(InvalidRequest, match=f"at most {MAX_STRINGS} strings"):
        decode_inputs(many, spec_of("BYTES"))
    message = pb.ModelInferRequest()
    message.inputs.add(name="x", datatype="BOOL", shape=[1, MAX_TYPED + 1])
    message.inputs[0].contents.bool_contents.extend(bytes(MAX_TYPED + 1))
    with pytest.raises(InvalidRequest, match=f"at most {MAX_TYPED} typed values; those in raw_input_contents"):
        decode_inputs(message, spec_of("BOOL"))


def test_any_nonzero_byte_is_true():
    (decoded,), _ = decode_inputs(
        request(("x", "BOOL", np.zeros((1, 3), bool)), raw=[b"\x00\x02\x01"]), spec_of("BOOL")
    )
    assert decoded.tolist() == [[False, True, True]]


def test_a_model_without_a_batch_axis_takes_its_shape_as_it_is():
    tensor = TensorSpec("x", "FP32", (3, -1))
    (decoded,), rows = decode_inputs(
        request(("x", "FP32", image(3, 5))), ModelSpec("m", 1, (tensor,), (tensor,), max_batch_size=0)
    )
    assert (decoded.shape, rows) == ((3, 5), 1)


@given(st.data())
def test_no_request_breaks_the_decoder(data):
    """Whatever the fields say, the outcome is arrays or InvalidRequest, never another error."""
    small = st.integers(-3, 6)
    message = pb.ModelInferRequest()
    for _ in range(data.draw(st.integers(0, 3))):
        tensor = message.inputs.add(
            name=data.draw(st.sampled_from(["a", "b", "", "c"])),
            datatype=data.draw(st.sampled_from(["INT32", "FP32", "BYTES", "", "int32"])),
            shape=data.draw(st.lists(st.one_of(small, st.just(2**62)), max_size=4)),
        )
        if data.draw(st.booleans()):
            field = data.draw(st.sampled_from(sorted(set(TYPED_FIELDS.values()) - {"bytes_contents", "bool_contents"})))
            getattr(tensor.contents, field).extend(data.draw(st.lists(st.integers(0, 9), max_size=8)))
    message.raw_input_contents.extend(data.draw(st.lists(st.binary(max_size=40), max_size=3)))
    try:
        arrays, rows = decode_inputs(message, PAIR)
    except InvalidRequest:
        return
    assert all(array.shape == (rows, 2) and array.dtype == np.int32 for array in arrays)
