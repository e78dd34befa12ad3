"""Owns what a client meets at the two ends of a graph: bytes as input, logits as a second output. Knows onnx only."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from conveyor_exporter.errors import ExportFailed
from conveyor_exporter.onnx_file.file_format import LOGITS
from conveyor_exporter.onnx_file.order import in_order

HEADS = ("Sigmoid", "Softmax")
MOVES = ("Transpose", "Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze")


def take_bytes(model: onnx.ModelProto, input_range: tuple[float, float]) -> None:
    """Let a graph take uint8 0 to 255 instead of float32, and scale inside: a quarter of the bytes on the wire.

    The scale comes behind the nodes that only move values: there are fewer bytes to move, and onnxruntime multiplies
    [..., 1] by one number 50 times slower than other shapes (1.2 ms instead of 20 us for 32 pictures of 28x28).

    Args:
        model: a graph with a float32 input; changed in place.
        input_range: what 0 and 255 stand for.
    """
    graph, (low, high) = model.graph, input_range
    image = graph.input[0]
    place, moved = _behind_moves(graph, image.name)
    users = [node for node in graph.node[place:] if moved in node.input]
    nodes = [helper.make_node("Cast", [moved], [f"{image.name}/cast"], f"{image.name}/cast", to=TensorProto.FLOAT)]
    for operator, name, value, neutral in (("Mul", "scale", (high - low) / 255, 1), ("Add", "offset", low, 0)):
        if value != neutral:
            constant, label = f"{image.name}.{name}", f"{image.name}/{operator.lower()}"
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), constant))
            nodes.append(helper.make_node(operator, [nodes[-1].output[0], constant], [label], label))
    for node in users:
        node.input[:] = [nodes[-1].output[0] if tensor == moved else tensor for tensor in node.input]
    for node in reversed(nodes):
        graph.node.insert(place, node)
    image.type.tensor_type.elem_type = TensorProto.UINT8
    in_order(model)


def _behind_moves(graph: onnx.GraphProto, tensor: str) -> tuple[int, str]:
    """Return the place behind the nodes that only move the image's values, and the name of the values there."""
    place = 0
    while True:
        users = [(number, node) for number, node in enumerate(graph.node) if tensor in node.input]
        if len(users) != 1 or users[0][1].op_type not in MOVES:
            return place, tensor
        place, tensor = users[0][0] + 1, users[0][1].output[0]


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
