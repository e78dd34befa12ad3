"""Owns what can be read off an ONNX graph: layers with operators, parameters, cost. Knows onnx only, runs nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name, for a batch of one; a tensor whose shape is not known is missing."""

_WEIGHT_POSITIONS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1}
_WEIGHT_POSITIONS |= {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}


@dataclass(frozen=True)
class LayerDescription:
    """One layer of a graph: the nodes that carry its name.

    Attributes:
        name: the layer's name; of a node without a name that of its first output.
        operators: the ONNX operators in order.
        output_shape: shape of what it gives for one image, without the batch axis; None where it is not known.
        parameters: numbers in its constants of floating point, or of integers in a quantised file.
        multiply_adds: multiplications with an addition that one image needs, as an int; None where it is not known.
        activation_bytes: bytes of what its nodes give for one image; None where it is not known.
    """

    name: str
    operators: tuple[str, ...]
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int | None
    activation_bytes: int | None


@dataclass(frozen=True)
class ValueDescription:
    """An input or an output of a graph.

    Attributes:
        name: its name.
        dtype: type of its elements, as numpy calls it.
        shape: a number for each axis, a name for one that is open; None when it is not said.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        axes = "of any shape" if self.shape is None else f"[{', '.join(map(str, self.shape))}]"
        return f"{self.name} {self.dtype} {axes}"


def describe_value(value: onnx.ValueInfoProto) -> ValueDescription:
    """Return what a graph says about an input or an output."""
    tensor_type = value.type.tensor_type
    shape = tuple(
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?" for axis in tensor_type.shape.dim
    )
    return ValueDescription(value.name, _dtype(tensor_type.elem_type), shape if tensor_type.HasField("shape") else None)


def _dtype(kind: int) -> str:
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(kind))
    except KeyError:  # no type, or one that this version of onnx does not know
        return "unknown"


def describe_layers(model: onnx.ModelProto) -> tuple[LayerDescription, ...]:
    """Return the layers of a graph in the order of their first nodes; what only prepares weights comes last in each."""
    shapes, types = infer_tensors(model)
    names = {node.name for node in model.graph.node}
    groups: dict[str, list[onnx.NodeProto]] = {}
    prepared = _prepared(model.graph)
    for node in sorted(model.graph.node, key=lambda node: not prepared.isdisjoint(node.output)):
        groups.setdefault(_layer_name(node, names), []).append(node)
    counted: set[str] = set()
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer if _is_weight(tensor)}
    descriptions = []
    for name, nodes in groups.items():
        mine = {tensor for node in nodes for tensor in node.input if tensor in sizes} - counted
        counted |= mine
        outputs = [tensor for node in nodes for tensor in node.output if tensor]
        last = shapes.get(next((tensor for tensor in reversed(outputs) if tensor not in prepared), ""))
        descriptions.append(
            LayerDescription(
                name,
                tuple(node.op_type for node in nodes),
                None if last is None else last[1:],
                sum(sizes[tensor] for tensor in mine),
                _sum([_multiply_adds(node, shapes) for node in nodes]),
                _sum([_bytes(tensor, shapes, types) for tensor in outputs if tensor not in prepared]),
            )
        )
    return tuple(descriptions)


def infer_tensors(model: onnx.ModelProto) -> tuple[Shapes, Mapping[str, int]]:
    """Return the shapes of all tensors for a batch of one, and their ONNX element types."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    constants = {tensor.name for tensor in single.graph.initializer}
    for value in single.graph.input:
        if value.name not in constants and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.value_info[:]  # they speak of any batch
    for value in single.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    except Exception:  # the file may be anything; what cannot be inferred is not known
        graph = single.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor_type = value.type.tensor_type
        types[value.name] = int(tensor_type.elem_type)
        if tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in tensor_type.shape.dim):
            shapes[value.name] = tuple(int(axis.dim_value) for axis in tensor_type.shape.dim)
    return shapes, types


def _layer_name(node: onnx.NodeProto, names: set[str]) -> str:
    """Return the layer of a node called `layer`, `layer/operator` or `layer/what it does for the layer`."""
    parent, _, own = node.name.rpartition("/")
    if parent and (parent in names or own.rstrip("_0123456789").lower() == node.op_type.lower()):
        return parent
    return node.name or next(iter(node.output), node.op_type)


def _prepared(graph: onnx.GraphProto) -> set[str]:
    """Return what follows from constants alone, such as dequantised weights: it is the same for every image."""
    constants = {tensor.name for tensor in graph.initializer}
    known = set(constants)
    for node in graph.node:
        if known.issuperset(filter(None, node.input)):
            known.update(node.output)
    return known - constants


def _is_weight(tensor: onnx.TensorProto) -> bool:
    """Tell whether a constant is learnt: shapes and axes are int64, and a lone number is a setting."""
    return tensor.data_type != onnx.TensorProto.INT64 and len(tensor.dims) > 0


def _multiply_adds(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Return multiplications with an addition for one image: outputs times the inputs that each output sums over."""
    position = _WEIGHT_POSITIONS.get(node.op_type)
    if position is None:
        return 0
    weight = shapes.get(node.input[position]) if len(node.input) > position else None
    given, made = shapes.get(next(iter(node.input), "")), shapes.get(next(iter(node.output), ""))
    if not weight or given is None or made is None:
        return None
    if node.op_type == "ConvTranspose":  # weight [inputs, outputs / groups, *kernel]: each input is spread
        return math.prod(given) * math.prod(weight[1:])
    if "Conv" in node.op_type:  # weight [outputs, inputs / groups, *kernel]
        return math.prod(made) * math.prod(weight[1:])
    return math.prod(made) * (weight[0] if len(weight) == 1 else _summed(node, weight))


def _summed(node: onnx.NodeProto, weight: tuple[int, ...]) -> int:
    turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight[-1] if turned else weight[-2]


def _bytes(tensor: str, shapes: Shapes, types: Mapping[str, int]) -> int | None:
    shape, kind = shapes.get(tensor), types.get(tensor, 0)
    dtype = _dtype(kind)
    if shape is None or dtype in ("unknown", "object"):
        return None
    return math.prod(shape) * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize


def _sum(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None
