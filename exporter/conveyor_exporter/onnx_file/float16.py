"""Owns the turning of a float32 graph into one that calculates in float16 where that is safe. Knows onnx only.

onnxruntime's own converter rounds a float32 answer to float16 and back, and leaves its nodes in no valid order.
"""

import copy

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from conveyor_exporter.errors import ExportFailed
from conveyor_exporter.onnx_file.inspection import infer_tensors
from conveyor_exporter.onnx_file.order import in_order

STAYS_FLOAT32 = frozenset(
    {
        *(
            "Sigmoid",
            "Softmax",
            "LogSoftmax",
            "Exp",
            "Log",
            "Pow",
            "Reciprocal",
            "Softplus",
        ),  # lose digits, or overflow
        *("ReduceSum", "ReduceMean", "ReduceL2", "GlobalAveragePool", "CumSum"),  # sums over many values
        *("BatchNormalization", "InstanceNormalization", "LayerNormalization"),  # squares of values
        *("Cast", "CastLike", "Constant", "ConstantOfShape", "QuantizeLinear", "DequantizeLinear"),  # name their types
    }
)
_HALF = "tensor(float16)"


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that calculates in float16 between its float32 ends.

    What loses digits or overflows early stays in float32: the last sigmoid or softmax, sums over many values.

    Args:
        model: a float32 graph with one input; stays as it is.

    Raises:
        ExportFailed: a weight is too large for float16, or the graph branches or loops.
    """
    result = copy.deepcopy(model)
    del result.graph.value_info[:]
    walk = _Walk(result)
    for node in model.graph.node:
        walk.add(copy.deepcopy(node))
    walk.finish()
    return in_order(result)


class _Walk:
    """Goes through the nodes in order and writes them anew, with a Cast where the two types meet."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._opset = next(entry.version for entry in model.opset_import if entry.domain == "")
        _, types = infer_tensors(model)
        self._floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._half: set[str] = set()  # tensors that keep their name and become float16
        self._turned: dict[str, str] = {}  # tensors that are there in the other type too, and how that one is called
        self._nodes: list[NodeProto] = []

    def add(self, node: NodeProto) -> None:
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise ExportFailed(f"float16 is not for a graph that branches or loops ({node.op_type} {node.name!r}).")
        halved = self._runs_half(node)
        for position, tensor in enumerate(node.input):
            if tensor in self._floats:
                wants_half = halved and _allows_half(node, position, self._opset)
                node.input[position] = self._as_half(tensor) if wants_half else self._as_float(tensor)
        self._nodes.append(node)
        if halved:
            self._half.update(tensor for tensor in node.output if tensor in self._floats)

    def finish(self) -> None:
        """Give each output of the graph its float32 back, and write the nodes and the constants that are used."""
        for value in self._graph.output:
            if value.name in self._half:
                inside = f"{value.name}/float16"
                for node in self._nodes:
                    node.input[:] = [inside if tensor == value.name else tensor for tensor in node.input]
                    node.output[:] = [inside if tensor == value.name else tensor for tensor in node.output]
                self._nodes.append(_cast(inside, value.name, f"{value.name}/float32", TensorProto.FLOAT))
        used = {tensor for node in self._nodes for tensor in node.input}
        kept = [tensor for name, tensor in self._constants.items() if name in used]
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        constants = [copy.deepcopy(tensor) for tensor in kept]
        del self._graph.initializer[:]
        self._graph.initializer.extend(constants)

    def _runs_half(self, node: NodeProto) -> bool:
        if node.domain or node.op_type in STAYS_FLOAT32 or not node.input:
            return False
        return node.input[0] in self._floats and _allows_half(node, 0, self._opset)

    def _as_half(self, tensor: str) -> str:
        if tensor in self._half:
            return tensor
        if tensor not in self._turned:
            self._turned[tensor] = name = f"{tensor}/float16"
            if tensor in self._constants:
                self._constants[name] = _halved(self._constants[tensor], name)
            else:
                self._nodes.append(_cast(tensor, name, name, TensorProto.FLOAT16))
        return self._turned[tensor]

    def _as_float(self, tensor: str) -> str:
        if tensor not in self._half:
            return tensor
        if tensor not in self._turned:
            self._turned[tensor] = name = f"{tensor}/float32"
            self._nodes.append(_cast(tensor, name, name, TensorProto.FLOAT))
        return self._turned[tensor]


def _allows_half(node: NodeProto, position: int, opset: int) -> bool:
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    formal = schema.inputs[min(position, len(schema.inputs) - 1)]
    return _HALF in formal.types


def _halved(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if np.isinf(halves).any() and np.isfinite(values).all():
        largest = float(np.abs(values).max())
        raise ExportFailed(f"{tensor.name} reaches {largest:.3g}, which is too large for float16; it ends at 65504.")
    return numpy_helper.from_array(halves, name)


def _cast(given: str, made: str, name: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [given], [made], name, to=kind)
