"""Small ONNX models, built by hand, so that server tests need no training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def classifier(
    *, height: int = 8, width: int = 8, classes: int = 4, seed: int = 0, metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """`image [batch, height, width, 1]` → Flatten → Gemm → Softmax → `probabilities [batch, classes]`."""
    weights = np.random.default_rng(seed).normal(size=(height * width, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    return _model(
        nodes,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", height, width, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weights, "weights")],
        metadata,
    )


def predict_classifier(images: np.ndarray, *, classes: int = 4, seed: int = 0) -> np.ndarray:
    """What `classifier` computes, in numpy and float64."""
    size = images[0].size
    weights = np.random.default_rng(seed).normal(size=(size, classes)).astype(np.float32)
    logits = images.reshape(len(images), size).astype(np.float64) @ weights
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def identity(
    kind: int, shape: Sequence[str | int] = ("batch", "n"), names: tuple[str, str] = ("input", "output")
) -> onnx.ModelProto:
    """`input` → Identity → `output`, of an element type of TensorProto."""
    (name, result) = names
    return _model(
        [helper.make_node("Identity", [name], [result])],
        [helper.make_tensor_value_info(name, kind, list(shape))],
        [helper.make_tensor_value_info(result, kind, list(shape))],
    )


def add_sub(kind: int = TensorProto.INT32) -> onnx.ModelProto:
    """Two inputs and outputs of `[batch, 16]`: sum and difference. Computed in INT32, whatever the type outside."""
    names, results = ["INPUT0", "INPUT1"], ["OUTPUT0", "OUTPUT1"]
    shape = ["batch", 16]
    casts_in = [helper.make_node("Cast", [name], [f"{name}_32"], to=TensorProto.INT32) for name in names]
    numbers = [f"{name}_32" for name in names]
    sums = [helper.make_node("Add", numbers, ["sum"]), helper.make_node("Sub", numbers, ["difference"])]
    casts_out = [
        helper.make_node("Cast", [number], [name], to=kind)
        for number, name in zip(("sum", "difference"), results, strict=True)
    ]
    return _model(
        [*casts_in, *sums, *casts_out],
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info(name, kind, shape) for name in results],
    )


def heavy(*, size: int = 1024, layers: int = 8) -> onnx.ModelProto:
    """`input [batch, size]` through square matrices: slow enough that runs leave the event loop's thread."""
    weights = numpy_helper.from_array(np.eye(size, dtype=np.float32), "weights")
    names = ["input", *(f"hidden{number}" for number in range(layers - 1)), "output"]
    nodes = [helper.make_node("MatMul", [names[i], "weights"], [names[i + 1]]) for i in range(layers)]
    return _model(
        nodes,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", size])],
        [weights],
    )


def save(model: onnx.ModelProto, repository: Path, name: str, version: int = 1) -> Path:
    """Puts a model into a repository; returns its file."""
    path = repository / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(model.SerializeToString())
    return path


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    return model
