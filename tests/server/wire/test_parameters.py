import numpy as np
import pytest

from conveyor_server.core.errors import InvalidRequest
from conveyor_server.core.model import ModelSpec, TensorSpec
from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.wire.parameters import Scheduling, read_classification, read_scheduling, with_classes

SPEC = ModelSpec(
    "m",
    1,
    (TensorSpec("x", "FP32", (-1, 3)),),
    (TensorSpec("numbers", "FP32", (-1, 3)), TensorSpec("words", "BYTES", (-1, 3)), TensorSpec("half", "FP16", (-1,))),
    max_batch_size=4,
)


def request(**parameters):
    message = pb.ModelInferRequest()
    for name, (kind, value) in parameters.items():
        setattr(message.parameters[name], f"{kind}_param", value)
    return message


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (request(), Scheduling(0, None)),
        (request(priority=("int64", 3)), Scheduling(3, None)),
        (request(priority=("uint64", 2**63)), Scheduling(2**63, None)),
        (request(timeout=("int64", 1_500_000)), Scheduling(0, 1.5)),
        (request(timeout=("int64", 0)), Scheduling(0, None)),
        (request(mine=("string", "x"), too=("bool", False), three=("double", 0.5)), Scheduling()),
        (request(sequence_id=("string", "x"), sequence_start=("bool", True)), Scheduling()),
        (request(triton_enable_empty_final_response=("bool", True)), Scheduling()),
    ],
)
def test_what_a_request_wishes_of_the_queue(message, expected):
    assert read_scheduling(message) == expected


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (request(priority=("int64", -1)), "invalid value for 'priority', expected value >= 0."),
        (request(timeout=("int64", -1)), "invalid value for 'timeout', expected value >= 0."),
        (
            request(priority=("string", "1")),
            "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
        ),
        (request(timeout=("uint64", 1)), "invalid value type for 'timeout' parameter, expected int64_param."),
        (request(sequence_id=("bool", True)), "expected int64_param or string_param."),
        (request(sequence_end=("int64", 1)), "invalid value type for 'sequence_end' parameter, expected bool_param."),
        (request(mine=("uint64", 1)), "invalid value type for 'mine' parameter"),
        (request(triton_other=("bool", True)), "parameter keys starting with 'triton_' are reserved for Triton usage"),
        (request(triton_enable_empty_final_response=("int64", 1)), "expected bool_param."),
    ],
)
def test_parameters_that_must_not_be_misread_are_refused(message, text):
    with pytest.raises(InvalidRequest) as caught:
        read_scheduling(message)
    assert text in str(caught.value)


def test_a_parameter_without_a_value_is_refused():
    message = pb.ModelInferRequest()
    message.parameters["mine"].SetInParent()
    with pytest.raises(InvalidRequest, match="invalid value type for 'mine'"):
        read_scheduling(message)


def wanting(output, kind, value):
    message = pb.ModelInferRequest()
    setattr(message.outputs.add(name=output).parameters["classification"], f"{kind}_param", value)
    return message


def test_classes_are_wanted_by_output():
    message = wanting("numbers", "int64", 2)
    message.outputs.add(name="words")
    assert read_classification(message, SPEC) == {0: 2}
    outputs = [np.array([[1, 3, 2]], np.float32), np.array([["a", "b", "c"]], np.object_), np.zeros(1, np.float16)]
    classes, words, _ = with_classes(outputs, {0: 2}, SPEC, {"numbers": ["x", "y", "z"]})
    assert classes.tolist() == [["3.000000:1:y", "2.000000:2:z"]]
    assert words is outputs[1]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (wanting("numbers", "int64", 0), "invalid value for 'classification' parameter, expected >= 0"),
        (wanting("numbers", "int64", -3), "invalid value for 'classification' parameter, expected >= 0"),
        (wanting("numbers", "string", "3"), "invalid value type for 'classification' parameter, expected int64_param"),
        (wanting("words", "int64", 3), "class result not available for output due to unsupported type 'BYTES'"),
        (wanting("half", "int64", 3), "unsupported type 'FP16'"),
    ],
)
def test_classes_that_cannot_be_had_are_refused(message, text):
    with pytest.raises(InvalidRequest) as caught:
        read_classification(message, SPEC)
    assert text in str(caught.value)
