"""Owns the writing of an ONNX graph, node after node, and all names in it. Knows onnx and numpy, and no layer."""

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Attribute = int | float | list[int]
Operand = str | float | NDArray[np.floating] | NDArray[np.integer]
"""A value by its name, or numbers that become a constant of the graph."""


class GraphWriter:
    """A graph in the making. A value is called like the node that gives it, so both tell the layer.

    Args:
        ends: names of the graph's inputs and outputs, which no value inside may have.
    """

    def __init__(self, ends: Iterable[str]) -> None:
        self._ends = frozenset(ends)
        self._nodes: dict[str, NodeProto] = {}
        self._constants: dict[str, TensorProto] = {}

    def node(self, layer: str, operator: str, *operands: Operand, **attributes: Attribute) -> str:
        """Add a node with one output to a layer, and return the name of what it gives.

        The first node of a layer has the layer's name, the others are called `layer/operator`. Numbers among the
        operands become constants `node.argument`, after ONNX' own name of the argument.
        """
        return self.nodes(layer, operator, *operands, outputs=1, **attributes)[0]

    def nodes(
        self, layer: str, operator: str, *operands: Operand, outputs: int, **attributes: Attribute
    ) -> tuple[str, ...]:
        """Add a node with several outputs, otherwise as `node` does."""
        name = self._free_name(layer, operator)
        arguments = onnx.defs.get_schema(operator).inputs
        inputs = [
            operand if isinstance(operand, str) else self.constant(f"{name}.{argument.name}", operand)
            for operand, argument in zip(operands, arguments, strict=False)
        ]
        first = f"{name}:0" if name in self._ends else name
        made = (first, *(f"{name}:{number}" for number in range(1, outputs)))
        node = helper.make_node(operator, inputs, made, name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self._nodes[name] = node
        return made

    def constant(self, name: str, values: float | NDArray[np.floating] | NDArray[np.integer]) -> str:
        """Add a constant, float32 or int64, and return its name."""
        array = np.asarray(values)
        array = array.astype(np.float32 if np.issubdtype(array.dtype, np.floating) else np.int64)
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def finish(self, value: str, taken: onnx.ValueInfoProto, given: onnx.ValueInfoProto) -> onnx.GraphProto:
        """Return the graph from the input `taken` to the output `given`, which `value` becomes."""
        if value == taken.name:
            value = self.node("output", "Identity", value)
        for node in self._nodes.values():
            node.output[:] = [given.name if output == value else output for output in node.output]
        return helper.make_graph([*self._nodes.values()], "", [taken], [given], [*self._constants.values()])

    def _free_name(self, layer: str, operator: str) -> str:
        wanted = f"{layer}/{operator.lower()}" if layer in self._nodes else layer
        names = (wanted, *(f"{wanted}_{number}" for number in range(1, len(self._nodes) + 1)))
        return next(name for name in names if name not in self._nodes)
