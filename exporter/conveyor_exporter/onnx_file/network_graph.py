"""Owns the way from a network to an ONNX graph: the walk along its layers, and how the axes lie at each point.

Knows the layers by their kind; which operators one becomes is for `layer_nodes`. Whether the graph gives the network's
answers is for `verify` to say.
"""

import math
from itertools import zip_longest

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from conveyor_exporter import activations, layers
from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import ExportFailed
from conveyor_exporter.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Flatten,
    Layer,
    LeakyReLU,
    ReLU,
    Rescaling,
    Reshape,
    Softmax,
    ZeroPadding2D,
)
from conveyor_exporter.layers.global_pooling2d import GlobalPooling2D
from conveyor_exporter.layers.pooling2d import Pooling2D
from conveyor_exporter.network import Network
from conveyor_exporter.onnx_file import layer_nodes
from conveyor_exporter.onnx_file.activation_nodes import Place, is_expressible, write_activation
from conveyor_exporter.onnx_file.affine_folding import Affine
from conveyor_exporter.onnx_file.file_format import BATCH_AXIS, INPUT_NAME, LOGITS
from conveyor_exporter.onnx_file.graph_writer import GraphWriter
from conveyor_exporter.onnx_file.order import in_order
from conveyor_exporter.onnx_file.simplification import simplest

CHANNELS_LAST = [0, 2, 3, 1]
BLOCK = 16  # channels that onnxruntime's convolutions take together on a processor with AVX-512; on others fewer
MOST_PIXELS = 64 * 64  # of an image summed pixel by pixel: of more, the roundings add up to three times those of a Gemm


def is_ours_alone(network: Network) -> bool:
    """Tell whether no layer and no activation of a network is the user's own code, which only torch can express."""
    return type(network).forward is Network.forward and all(
        type(layer).__module__.startswith(f"{layers.__name__}.")
        and is_expressible(getattr(layer, "activation", activations.linear))
        for layer in network.layers
    )


def write_network(network: Network, output_name: str, opset: int, image_sums: bool = True) -> onnx.ModelProto:
    """Return a network as an ONNX model: float32 [batch, *input_shape] to [batch, *output_shape], in few operators.

    The axes are turned to channels first once, in front of the first layer that needs it, and what follows works in
    that order. A Flatten lays the values in (channels, height, width) order; the next Dense gets its kernel's rows in
    that order too, so nothing is turned back. Where that does not work, the axes are turned back first.

    Args:
        network: a built network, all of our own parts; it is not changed.
        output_name: what the output is called.
        opset: version of the ONNX operators.
        image_sums: whether a Dense with one unit over a whole image may be written as a convolution and a sum.
    """
    graph = GraphWriter({INPUT_NAME, output_name, LOGITS})
    walk = _Walk(graph, INPUT_NAME, image_sums)
    chain = simplest(network.layers)
    for layer, following in zip_longest(chain, chain[1:]):
        walk.take(layer, following)
    walk.turn_back("output")
    ends = (_end(INPUT_NAME, network.input_shape), _end(output_name, network.output_shape))
    model = helper.make_model(graph.finish(walk.value, *ends), opset_imports=[helper.make_opsetid("", opset)])
    return in_order(model)


def _end(name: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH_AXIS, *shape])


class _Walk:
    """Goes along the layers once and writes each; knows how the axes lie at each point."""

    def __init__(self, graph: GraphWriter, value: str, image_sums: bool) -> None:
        self.value = value
        self._graph, self._image_sums = graph, image_sums
        self._turned = False  # whether the value is channels first at this point of the walk
        self._flattened: Shape | None = None  # the (height, width, channels) that a channels-first Flatten came from

    def take(self, layer: Layer, following: Layer | None) -> None:
        """Write what `layer` does; `following` is the layer behind it."""
        match layer:
            case Conv2D() | DepthwiseConv2D():
                self._turn(layer)
                self.value = layer_nodes.convolution(self.value, layer, self._place(layer))
            case Pooling2D():
                self._turn(layer)
                self.value = layer_nodes.pooling(self.value, layer, self._place(layer))
            case ZeroPadding2D():
                self._turn(layer)
                self.value = layer_nodes.border(self.value, layer, self._place(layer))
            case GlobalPooling2D():
                self.value = layer_nodes.global_pooling(self.value, layer, self._place(layer))
                self._turned &= layer.keepdims
            case Flatten() | Reshape():
                self._take_reshape(layer, following)
            case Dense():
                self._take_dense(layer)
            case BatchNormalization() | Rescaling():
                self._take_affine(layer)
            case ReLU() | LeakyReLU():
                self.value = layer_nodes.rectifier(self.value, layer, self._place(layer))
            case Activation() | Softmax():
                self._take_activation(layer)
            case _:
                raise ExportFailed(f"{layer.title} has no form in ONNX. This is a bug.")

    def turn_back(self, before: str) -> None:
        """Make sure that the axes lie as in the network, in front of what is called `before`."""
        if self._flattened is not None:
            height, width, channels = self._flattened
            axes = np.array([-1, channels, height, width])
            self.value = self._graph.node(f"{before}/unflatten", "Reshape", self.value, axes)
        if self._turned or self._flattened is not None:
            self.value = self._graph.node(f"{before}/channels_last", "Transpose", self.value, perm=CHANNELS_LAST)
        if self._flattened is not None:
            self.value = self._graph.node(f"{before}/flatten", "Flatten", self.value)
        self._turned, self._flattened = False, None

    def _turn(self, layer: Layer) -> None:
        """Make sure that the channels come first, in front of a layer."""
        if not self._turned:
            name = f"{layer.name}/channels_first"
            self.value = layer_nodes.channels_first(self.value, self._graph, name, layer.input_shape or ())
            self._turned = True

    def _place(self, layer: Layer) -> Place:
        return Place(self._graph, layer.name, 1 if self._turned else -1, (layer.output_shape or ())[-1])

    def _take_reshape(self, layer: Flatten | Reshape, following: Layer | None) -> None:
        shape, made = layer.input_shape or (), layer.output_shape or ()
        if len(made) > 1:
            self.turn_back(layer.name)
            self.value = self._place(layer).node("Reshape", self.value, np.array([-1, *made]))
        elif len(shape) > 1:
            if self._turned and shape[-1] > 1 and math.prod(shape[:-1]) > 1:
                self._flattened = shape
                if self._image_sums and _is_image_sum(following, shape):
                    return  # it stays an image: the Dense takes it as one
            self._turned = False
            self.value = self._place(layer).node("Flatten", self.value)

    def _take_dense(self, layer: Dense) -> None:
        if self._turned and self._flattened is not None:
            self.value = layer_nodes.dense_over_image(self.value, layer, self._place(layer), self._flattened)
            self._turned, self._flattened = False, None
        elif self._turned:
            self.value = layer_nodes.dense_over_pixels(self.value, layer, self._place(layer))
        elif len(layer.input_shape or ()) == 1:
            self.value = layer_nodes.dense(self.value, layer, self._place(layer), self._order(layer))
            self._flattened = None
        else:
            self.value = layer_nodes.dense_over_last_axis(self.value, layer, self._place(layer))

    def _take_affine(self, layer: BatchNormalization | Rescaling) -> None:
        rank = len(layer.input_shape or ())
        if isinstance(layer, BatchNormalization) and rank in (1, 3):  # for which ONNX has an operator
            if rank == 3:
                self._turn(layer)
            self.value = layer_nodes.normalization(self.value, layer, self._place(layer), self._order(layer))
        elif (affine := Affine.of(layer)) is not None:
            self.value = layer_nodes.scale_and_shift(self.value, affine, self._place(layer), self._order(layer))

    def _take_activation(self, layer: Activation | Softmax) -> None:
        if isinstance(layer, Softmax):
            axis = layer_nodes.CHANNELS_FIRST.index(layer.axis % 4) if self._turned else layer.axis
            self.value = self._place(layer).node("Softmax", self.value, axis=axis)
            return
        if layer.activation is activations.glu and self._flattened is not None:
            self.turn_back(layer.name)  # the only one to which the order of flat features matters
        self.value = write_activation(layer.activation, self.value, self._place(layer))

    def _order(self, layer: Layer) -> NDArray[np.intp]:
        """Return which of the features that a layer takes in the network lies at each place here."""
        order = np.arange((layer.input_shape or ())[-1])
        return order if self._flattened is None else order.reshape(self._flattened).transpose(2, 0, 1).ravel()


def _is_image_sum(layer: Layer | None, shape: Shape) -> bool:
    """Tell whether a layer behind a Flatten of an image is better written as a convolution over all of it and a sum."""
    height, width, channels = shape
    if not isinstance(layer, Dense) or layer.units != 1:
        return False
    return channels % BLOCK == 0 and height * width <= MOST_PIXELS
