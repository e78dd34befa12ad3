"""Owns what a client meets at the two ends of a graph: bytes as input, logits as a second output. Knows onnx only."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from conveyor_exporter.errors import ExportFailed
from conveyor_exporter.onnx_cleanup import in_order

LOGITS = "logits"
HEADS = ("Sigmoid", "Softmax")


def take_bytes(model: onnx.ModelProto, input_range: tuple[float, float]) -> None:
    """Let a graph take uint8 0 to 255 instead of float32, and scale inside: a quarter of the bytes on the wire.

    The scale stays a node of its own: onnxruntime spends about one microsecond on it for a 28x28 picture, and scaled
    weights would not be the layer's.

    Args:
        model: a graph with a float32 input; changed in place.
        input_range: what 0 and 255 stand for.
    """
    graph, (low, high) = model.graph, input_range
    image = graph.input[0]
    scale = (high - low) / 255
    steps: list[tuple[str, str, float]] = []
    if scale != 1:
        steps.append(("Mul", "scale", scale))
    if low != 0:
        steps.append(("Add", "offset", low))
    nodes = [helper.make_node("Cast", [image.name], ["cast"], to=TensorProto.FLOAT)]
    for operator, name, value in steps:
        constant = f"{image.name}.{name}"
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), constant))
        nodes.append(helper.make_node(operator, [nodes[-1].output[0], constant], [operator]))
    for before, node in zip([None, *nodes], nodes, strict=False):
        node.name = node.output[0] = f"{image.name}/{node.op_type.lower()}"
        if before is not None:
            node.input[0] = before.output[0]
    for node in graph.node:
        node.input[:] = [nodes[-1].output[0] if tensor == image.name else tensor for tensor in node.input]
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *old])
    image.type.tensor_type.elem_type = TensorProto.UINT8
    in_order(model)


def give_logits(model: onnx.ModelProto) -> None:
    """Add the output `logits`: what the sigmoid or softmax at the end of a graph gets.

    Args:
        model: a graph that ends in a sigmoid or a softmax; changed in place.

    Raises:
        ExportFailed: it ends in something else.
    """
    graph = model.graph
    (probabilities,) = graph.output
    head = next(node for node in graph.node if probabilities.name in node.output)
    if head.op_type not in HEADS:
        raise ExportFailed(
            f"logits can only be given by a model that ends in a sigmoid or a softmax; this one ends in {head.op_type}."
        )
    before = head.input[0]
    if before == graph.input[0].name:
        raise ExportFailed("the model is nothing but a sigmoid or softmax, so its logits are its input.")
    for node in graph.node:
        node.input[:] = [LOGITS if tensor == before else tensor for tensor in node.input]
        node.output[:] = [LOGITS if tensor == before else tensor for tensor in node.output]
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, _axes(probabilities)))
    in_order(model)


def _axes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
