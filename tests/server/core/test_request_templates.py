import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.model import ModelSpec, TensorSpec
from conveyor_server.core.request_templates import RequestTemplates
from conveyor_server.core.tensors import decode_inputs
from conveyor_server.core.varint import varint
from conveyor_server.generated import inference_pb2 as pb

SPEC = ModelSpec(
    "digits", 3, inputs=(TensorSpec("image", "FP32", (-1, 2)),), outputs=(TensorSpec("y", "FP32", (-1, 1)),),
    max_batch_size=100,
)  # fmt: skip


def request(images, **fields):
    made = pb.ModelInferRequest(**{"model_name": "digits", **fields})
    made.inputs.add(name="image", datatype="FP32", shape=images.shape)
    made.raw_input_contents.append(images.tobytes())
    return made


def rows(*values):
    return np.array(values, np.float32).reshape(-1, 2)


def taught(data, wish="wish"):
    templates = RequestTemplates()
    message = pb.ModelInferRequest.FromString(data)
    (array,), count = decode_inputs(message, SPEC)
    templates.learn(data, message, array, count, wish)
    return templates


@pytest.mark.parametrize("fields", [{}, {"model_version": "3"}, {"outputs": [{"name": "y"}]}])
def test_another_request_of_the_same_form_is_known_and_read(fields):
    templates = taught(request(rows(1, 2), **fields).SerializeToString())
    data = request(rows(-3, 4.5), **fields).SerializeToString()
    template, request_id = templates.find(data)
    assert (template.wish, template.rows, request_id) == ("wish", 1, "")
    tensor = template.tensor(data)
    assert (tensor.dtype, tensor.tolist()) == (np.float32, [[-3, 4.5]])
    assert not tensor.flags.writeable


@pytest.mark.parametrize(
    "other",
    [
        request(rows(1, 2), model_name="digitz"),
        request(rows(1, 2), model_version="3"),
        request(rows(1, 2), outputs=[{"name": "y"}]),
        request(rows(1, 2), parameters={"priority": {"int64_param": 1}}),
        request(rows(1, 2, 3, 4)),
    ],
)
def test_a_request_that_asks_for_something_else_is_not_known(other):
    templates = taught(request(rows(1, 2)).SerializeToString())
    assert templates.find(other.SerializeToString()) is None


def test_what_is_forgotten_is_not_known():
    data = request(rows(1, 2)).SerializeToString()
    templates = taught(data)
    templates.forget(templates.find(data)[0])
    assert templates.find(data) is None


@pytest.mark.parametrize("taught_id", ["", "7", "é" * 50])
@pytest.mark.parametrize("name", ["", "1", "request 12", "x" * 127, "é"])
def test_the_id_may_differ(taught_id, name):
    templates = taught(request(rows(1, 2), id=taught_id).SerializeToString())
    data = request(rows(5, 6), id=name).SerializeToString()
    template, found = templates.find(data)
    assert (found, template.tensor(data).tolist()) == (name, [[5, 6]])


def test_ids_that_are_long_or_no_text_are_left_to_the_parser():
    templates = taught(request(rows(1, 2), id="abc").SerializeToString())
    assert templates.find(request(rows(1, 2), id="x" * 128).SerializeToString()) is None
    assert templates.find(request(rows(1, 2), id="abc").SerializeToString().replace(b"abc", b"a\xffc")) is None


@given(st.integers(0, 200), st.binary(max_size=3))
def test_a_damaged_request_is_known_only_if_it_parses_to_what_is_known(position, junk):
    good = request(rows(1, 2), id="abc").SerializeToString()
    templates = taught(good)
    data = good[:position] + junk + good[position + len(junk) :]
    found = templates.find(data)
    if found is not None:
        template, request_id = found
        message = pb.ModelInferRequest.FromString(data)
        assert message.id == request_id
        (array,), _ = decode_inputs(message, SPEC)
        np.testing.assert_array_equal(array, template.tensor(data))


def test_fields_behind_the_contents_make_no_template():
    late = pb.ModelInferRequest(model_version="3").SerializeToString()
    data = request(rows(1, 2)).SerializeToString() + late
    assert taught(data).find(data) is None


def test_contents_that_are_split_over_fields_of_the_same_bytes_make_no_false_template():
    """The last bytes look like the field of the contents, and are the inside of a longer field."""
    images = rows(1, 2)
    inner = b"\x3a" + varint(len(images.tobytes())) + images.tobytes()
    message = pb.ModelInferRequest(model_name="digits")
    message.inputs.add(name="image", datatype="FP32", shape=images.shape)
    # An unknown field of bytes stands last, and ends with what a field of contents would be.
    data = (
        message.SerializeToString() + b"\x3a" + varint(8) + images.tobytes() + b"\xfa\x01" + varint(len(inner)) + inner
    )
    parsed = pb.ModelInferRequest.FromString(data)
    assert parsed.raw_input_contents[0] == images.tobytes()
    assert taught(data).find(data) is None


def test_few_are_kept():
    templates = RequestTemplates()
    for number in range(50):
        data = request(rows(1, 2), model_version=str(10 + number)).SerializeToString()
        message = pb.ModelInferRequest.FromString(data)
        templates.learn(data, message, rows(1, 2), 1, number)
    known = [templates.find(request(rows(3, 4), model_version=str(10 + n)).SerializeToString()) for n in range(50)]
    assert 0 < sum(template is not None for template in known) < 50


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "1", "12"]),  # version
            st.sampled_from(["", "a", "bb"]),  # id
            st.sampled_from([[], ["y"]]),
            st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
        ),
        max_size=30,
    )
)
def test_a_template_never_says_anything_but_what_parsing_says(cases):
    templates = RequestTemplates()
    for version, name, outputs, values in cases:
        images = np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)
        data = request(
            images, model_version=version, id=name, outputs=[{"name": o} for o in outputs]
        ).SerializeToString()
        message = pb.ModelInferRequest.FromString(data)
        (array,), count = decode_inputs(message, SPEC)
        truth = (version, tuple(outputs))
        if (found := templates.find(data)) is not None:
            template, request_id = found
            assert (template.wish, template.rows, request_id) == (truth, count, name)
            np.testing.assert_array_equal(template.tensor(data), array)
        else:
            templates.learn(data, message, array, count, truth)
