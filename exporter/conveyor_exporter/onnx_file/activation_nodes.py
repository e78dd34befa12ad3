"""Owns each activation as ONNX operators, with Keras' constants. Knows no layer and no layout but an axis."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from conveyor_exporter import activations
from conveyor_exporter.activations import Activation
from conveyor_exporter.onnx_file.graph_writer import Attribute, GraphWriter, Operand


@dataclass(frozen=True)
class Place:
    """Where in a graph something is written.

    Attributes:
        graph: the graph in the making.
        layer: the layer that the nodes belong to.
        axis: the axis of the channels.
        channels: how many there are.
    """

    graph: GraphWriter
    layer: str
    axis: int
    channels: int

    def node(self, operator: str, *operands: Operand, **attributes: Attribute) -> str:
        """Add a node to the layer and return the name of what it gives."""
        return self.graph.node(self.layer, operator, *operands, **attributes)


Writer = Callable[[str, Place], str]
"""Adds what it computes of a value, given by name, and returns the name of what that gives."""


def write_activation(activation: Activation, x: str, place: Place) -> str:
    """Add what an activation by name computes of the value `x`, and return the name of what it gives."""
    return WRITERS[activation](x, place)


def is_expressible(activation: Activation) -> bool:
    """Tell whether an activation is one that has a name, not a function of the user's own."""
    return any(activation is known for known in WRITERS)


def _one(operator: str, *operands: float, **attributes: float) -> Writer:
    return lambda x, place: place.node(operator, x, *operands, **attributes)


def _over_channels(operator: str) -> Writer:
    return lambda x, place: place.node(operator, x, axis=place.axis)


def _gelu(x: str, place: Place) -> str:
    """Written so that onnxruntime makes one operator of it."""
    grown = place.node("Add", place.node("Erf", place.node("Div", x, math.sqrt(2))), 1.0)
    return place.node("Mul", place.node("Mul", x, grown), 0.5)


def _silu(x: str, place: Place) -> str:
    return place.node("Mul", x, place.node("Sigmoid", x))


def _mish(x: str, place: Place) -> str:
    return place.node("Mul", x, place.node("Tanh", place.node("Softplus", x)))


def _log_sigmoid(x: str, place: Place) -> str:
    return place.node("Neg", place.node("Softplus", place.node("Neg", x)))


def _tanh_shrink(x: str, place: Place) -> str:
    return place.node("Sub", x, place.node("Tanh", x))


def _squareplus(x: str, place: Place) -> str:
    root = place.node("Sqrt", place.node("Add", place.node("Mul", x, x), 4.0))
    return place.node("Mul", place.node("Add", x, root), 0.5)


def _sparse_plus(x: str, place: Place) -> str:
    raised = place.node("Add", place.node("Clip", x, -1.0, 1.0), 1.0)
    bow = place.node("Mul", place.node("Mul", raised, raised), 0.25)
    return place.node("Where", place.node("Less", x, 1.0), bow, x)


def _glu(x: str, place: Place) -> str:
    half, gate = place.graph.nodes(place.layer, "Split", x, outputs=2, axis=place.axis, num_outputs=2)
    return place.node("Mul", half, place.node("Sigmoid", gate))


def _sparsemax(x: str, place: Place) -> str:
    """The threshold is the largest of (sum of the j largest - 1) / j, see `activations.sparsemax`."""
    count = np.array([place.channels])
    largest, _ = place.graph.nodes(place.layer, "TopK", x, count, outputs=2, axis=place.axis)
    excess = place.node("Sub", place.node("CumSum", largest, np.array(place.axis)), 1.0)
    numbers = np.arange(1.0, place.channels + 1)
    if place.axis == 1:
        numbers = numbers[:, None, None]
    shares = place.node("Div", excess, numbers)
    threshold = place.node("ReduceMax", shares, np.array([place.axis]))
    return place.node("Relu", place.node("Sub", x, threshold))


WRITERS: Mapping[Activation, Writer] = {
    activations.linear: lambda x, place: x,
    activations.relu: _one("Relu"),
    activations.relu6: _one("Clip", 0.0, 6.0),
    activations.leaky_relu: _one("LeakyRelu", alpha=0.2),
    activations.elu: _one("Elu", alpha=1.0),
    activations.celu: _one("Elu", alpha=1.0),
    activations.selu: _one("Selu"),
    activations.gelu: _gelu,
    activations.silu: _silu,
    activations.hard_silu: _one("HardSwish"),
    activations.mish: _mish,
    activations.sigmoid: _one("Sigmoid"),
    activations.hard_sigmoid: _one("HardSigmoid", alpha=1 / 6, beta=0.5),
    activations.hard_sigmoid_of_keras_2: _one("HardSigmoid", alpha=0.2, beta=0.5),
    activations.log_sigmoid: _log_sigmoid,
    activations.sparse_sigmoid: _one("HardSigmoid", alpha=0.5, beta=0.5),
    activations.tanh: _one("Tanh"),
    activations.hard_tanh: _one("Clip", -1.0, 1.0),
    activations.tanh_shrink: _tanh_shrink,
    activations.softplus: _one("Softplus"),
    activations.softsign: _one("Softsign"),
    activations.sparse_plus: _sparse_plus,
    activations.squareplus: _squareplus,
    activations.exponential: _one("Exp"),
    activations.hard_shrink: _one("Shrink", lambd=0.5, bias=0.0),
    activations.soft_shrink: _one("Shrink", lambd=0.5, bias=0.5),
    activations.softmax: _over_channels("Softmax"),
    activations.log_softmax: _over_channels("LogSoftmax"),
    activations.glu: _glu,
    activations.sparsemax: _sparsemax,
}
