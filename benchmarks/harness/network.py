"""The networks that servers of a benchmark serve, the images that they are asked, and the answers that are right."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from conveyor_server.generated import inference_pb2 as pb

NAME = "tutorial"
UINT8_NAME = "tutorial_uint8"
"""Of every network, so that the rivals' programs serve each of them."""
IMAGE = (28, 28, 1)
TUTORIAL = "tutorial"
FILTERS = {TUTORIAL: (16,), "medium": (64, 128, 256), "large": (64, 128, 256, 512, 512)}
"""Of the convolutions, by network. The tutorial's has 0.1 million multiply-adds an image, the next one 186 million (a
MobileNetV2 has 300), and the last one 1.4 billion (a ResNet-18 for ImageNet has 1.8)."""
DATATYPES = {NAME: "FP32", UINT8_NAME: "UINT8"}
_TOLERANCE = 1e-5


class WrongAnswer(Exception):
    """A server answered otherwise than ONNX Runtime does in this process, or not at all."""


def network(datatype: str, size: str = TUTORIAL) -> onnx.ModelProto:
    """Conv2D 3x3 relu, one or several, Flatten, Dense 1 sigmoid, random weights. "UINT8" takes levels 0 to 255."""
    random = np.random.default_rng(0)
    constants = {"channels_first": np.array([0, 1, *IMAGE[:2]], np.int64)}
    nodes = [
        helper.make_node("Reshape", ["image", "channels_first"], ["grey"]),
        helper.make_node("Cast", ["grey"], ["pixels"], to=TensorProto.FLOAT),  # of float32, ONNX Runtime drops it
    ]
    last, channels = "pixels", IMAGE[2]
    for number, filters in enumerate(FILTERS[size]):
        scale = 0.1 if number == 0 else (2 / (9 * channels)) ** 0.5
        kernels = random.normal(0, scale, (filters, channels, 3, 3)).astype(np.float32)
        constants[f"kernels{number}"] = kernels / 255 if datatype == "UINT8" and number == 0 else kernels
        constants[f"bias{number}"] = random.normal(0, 0.1, filters).astype(np.float32)
        convolved, rectified = f"convolved{number}", f"rectified{number}"
        nodes.append(helper.make_node("Conv", [last, f"kernels{number}", f"bias{number}"], [convolved]))
        nodes.append(helper.make_node("Relu", [convolved], [rectified]))
        last, channels = rectified, filters
    margin = 2 * len(FILTERS[size])
    features = channels * (IMAGE[0] - margin) * (IMAGE[1] - margin)
    constants["weights"] = random.normal(0, features**-0.5, (features, 1)).astype(np.float32)
    constants["dense_bias"] = np.zeros(1, np.float32)
    nodes += [
        helper.make_node("Flatten", [last], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "dense_bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    kind = TensorProto.UINT8 if datatype == "UINT8" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("image", kind, ["batch", *IMAGE])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def write_repository(folder: Path, size: str = TUTORIAL) -> Path:
    """The models, in the layout that ours and Triton read; returns the file of the one that takes float32.

    Only the tutorial's has a twin that takes bytes: a server that still loads one is slower.
    """
    for name, datatype in DATATYPES.items():
        if size != TUTORIAL and datatype == "UINT8":
            continue
        file = folder / name / "1" / "model.onnx"
        content = network(datatype, size).SerializeToString(deterministic=True)
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return (folder / NAME / "1" / "model.onnx").resolve()


def images(count: int, datatype: str = "FP32") -> np.ndarray:
    """[count, 28, 28, 1], the same at each call."""
    random = np.random.default_rng(1)
    if datatype == "UINT8":
        return random.integers(0, 256, (count, *IMAGE), np.uint8)
    return random.random((count, *IMAGE), np.float32)


def message(pixels: np.ndarray) -> bytes:
    """A ModelInferRequest, serialized."""
    is_uint8 = pixels.dtype == np.uint8
    request = pb.ModelInferRequest(model_name=UINT8_NAME if is_uint8 else NAME, id="1")
    request.inputs.add(name="image", datatype="UINT8" if is_uint8 else "FP32", shape=pixels.shape)
    request.outputs.add(name="probability")
    request.raw_input_contents.append(pixels.tobytes())
    return request.SerializeToString()


def outputs_of(response: bytes) -> np.ndarray:
    """The probabilities in a serialized ModelInferResponse."""
    answer = pb.ModelInferResponse.FromString(response)
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], np.float32)
    if answer.outputs:
        return np.array(answer.outputs[0].contents.fp32_contents, np.float32)
    raise WrongAnswer("An answer without outputs came.")


@cache
def _reference(datatype: str, size: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(network(datatype, size).SerializeToString(), options)


def check(pixels: np.ndarray, outputs: np.ndarray, size: str = TUTORIAL) -> None:
    """Raises WrongAnswer unless `outputs` is what ONNX Runtime says of the images."""
    datatype = "UINT8" if pixels.dtype == np.uint8 else "FP32"
    (expected,) = _reference(datatype, size).run(None, {"image": pixels})
    if outputs.size != expected.size:
        raise WrongAnswer(f"{outputs.size} probabilities came for {expected.size} images.")
    if (difference := float(np.abs(outputs.ravel() - expected.ravel()).max())) > _TOLERANCE:
        raise WrongAnswer(f"A probability is wrong by {difference:.1e}.")
