"""Owns the rewriting of a network into the form that exports well: channels first inside, one turn of the axes.

Knows the layers, nothing of ONNX. Whether the twin still gives the network's answers is for `verify` to say.
"""

import copy
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from conveyor_exporter import activations
from conveyor_exporter.arguments import Shape
from conveyor_exporter.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    Layer,
    Rescaling,
    Reshape,
    SeparableConv2D,
    Softmax,
    ZeroPadding2D,
)
from conveyor_exporter.layers.global_pooling2d import GlobalPooling2D
from conveyor_exporter.layers.pooling2d import Pooling2D
from conveyor_exporter.layers.spatial import activate_channels_first
from conveyor_exporter.network import Network
from conveyor_exporter.onnx_file.affine_folding import fold
from conveyor_exporter.onnx_file.twin_parts import ChannelScale, Convolution, Normalization, Pooling, Step, Turn

CHANNELS_FIRST = (0, 3, 1, 2)
CHANNELS_LAST = (0, 2, 3, 1)


class InferenceTwin(nn.Module):
    """A copy of a network for inference: takes and gives what the network does, with fewer nodes.

    What only training needs is absent, and what scales and shifts channels is folded into the layers beside it. The
    axes are turned to channels first once, in front of the first layer that needs it, and what follows works in that
    order. A Flatten lays the values in (channels, height, width) order; the next Dense gets its kernel's rows in that
    order too, so nothing is turned back. Where that does not work, the axes are turned back first.

    Its parts carry the names of the layers; the network itself is not changed.

    Args:
        network: a built network.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        weights = (weight for layer in network.layers for weight in layer.weights().values())
        model = next(weights, torch.zeros(0))
        walk = _Walk()
        for layer in _merge_borders(fold(_simplify(network.layers))):
            walk.take(layer)
        walk.turn_back("output")
        for name, part in walk.parts.items():
            self.add_module(name, part)
        self.to(model.device, model.dtype)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs, float32, for [batch, *input_shape], float32."""
        for part in self.children():
            inputs = part(inputs)
        return inputs


def _simplify(layers: list[Layer]) -> list[Layer]:
    """Return float64 copies of the layers, without those that do nothing outside training, in their simplest form."""
    simple: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Dropout) or (isinstance(layer, Activation) and layer.activation is activations.linear):
            continue
        layer = copy.deepcopy(layer).double()
        simple += _split(layer) if isinstance(layer, SeparableConv2D) else [layer]
    return simple


def _split(layer: SeparableConv2D) -> list[Layer]:
    """Return a separable convolution as the two that it is made of."""
    window = (layer.kernel_size, layer.strides, layer.padding, layer.depth_multiplier, None, layer.dilation_rate)
    depthwise = DepthwiseConv2D(*window, use_bias=False, depthwise_initializer="zeros")
    pointwise = Conv2D(layer.filters, 1, use_bias=layer.use_bias, kernel_initializer="zeros")
    depthwise.build(layer.input_shape or ())
    pointwise.build(depthwise.output_shape or ())
    depthwise_kernel, *rest = layer.get_weights()
    for part, name, weights in ((depthwise, "depthwise", [depthwise_kernel]), (pointwise, "pointwise", rest)):
        part.double().set_weights(weights)
        part.name = f"{layer.name}/{name}"
    pointwise.activation = layer.activation
    return [depthwise, pointwise]


def _merge_borders(layers: list[Layer]) -> list[Layer]:
    """Return the layers with each border of zeros in front of a convolution made part of its padding."""
    merged: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Conv2D | DepthwiseConv2D):
            while merged and isinstance(border := merged[-1], ZeroPadding2D):
                (top, bottom), (left, right) = layer.window.border
                (above, below), (before, after) = border.padding
                grown = ((above + top, below + bottom), (before + left, after + right))
                layer.window, layer.input_shape = replace(layer.window, border=grown), border.input_shape
                merged.pop()
        merged.append(layer)
    return merged


class _Walk:
    """Goes through the layers once and collects the parts of the twin; knows how the axes lie at each point."""

    def __init__(self) -> None:
        self.parts: dict[str, nn.Module] = {}
        self._turned = False  # whether the tensor is channels first at this point of the walk
        self._flattened: Shape | None = None  # the (height, width, channels) that a channels-first Flatten came from

    def take(self, layer: Layer) -> None:
        """Add the part that computes what `layer` does."""
        match layer:
            case Conv2D() | DepthwiseConv2D():
                self._add_channels_first(layer, Convolution.of(layer))
            case Pooling2D():
                self._add_channels_first(layer, Pooling(layer))
            case ZeroPadding2D():
                self._add_channels_first(layer, Step(layer.compute_channels_first))
            case GlobalPooling2D() if self._turned:
                self.parts[layer.name] = Step(layer.compute_channels_first)
                self._turned = layer.keepdims
            case Flatten() | Reshape() if len(layer.output_shape or ()) == 1:
                self._flatten(layer)
            case Dense():
                self._take_dense(layer)
            case BatchNormalization() if len(layer.input_shape or ()) in (1, 3):
                self._take_normalization(layer)
            case _ if layer.elementwise:
                self.parts[layer.name] = Step(layer.compute)
            case Activation() | Softmax() | Rescaling() if self._turned:
                self.parts[layer.name] = self._over_channels(layer)
            case Activation() | Softmax() if self._flattened is not None and _any_order(layer):
                self.parts[layer.name] = Step(layer.compute)
            case _:
                self.turn_back(layer.name)
                self.parts[layer.name] = layer

    def turn_back(self, before: str) -> None:
        """Make sure that the axes lie as in the network, in front of the part called `before`."""
        if self._flattened is not None:
            height, width, channels = self._flattened
            self.parts[f"{before}/unflatten"] = nn.Unflatten(1, (channels, height, width))
        if self._turned or self._flattened is not None:
            self.parts[f"{before}/channels_last"] = Turn(CHANNELS_LAST)
        if self._flattened is not None:
            self.parts[f"{before}/flatten"] = nn.Flatten()
        self._turned, self._flattened = False, None

    def _add_channels_first(self, layer: Layer, part: nn.Module) -> None:
        if not self._turned:
            self.parts[f"{layer.name}/channels_first"] = Turn(CHANNELS_FIRST)
            self._turned = True
        self.parts[layer.name] = part

    def _flatten(self, layer: Layer) -> None:
        shape = layer.input_shape or ()
        if len(shape) == 1:
            return  # flat already
        if self._turned:
            height, width, channels = shape
            self._flattened = shape if channels > 1 and height * width > 1 else None
            self._turned = False
        self.parts[layer.name] = Step(partial(torch.flatten, start_dim=1))

    def _take_dense(self, layer: Dense) -> None:
        if self._turned:
            self.parts[layer.name] = Convolution.of(layer)
            return
        if self._flattened is not None:
            layer.kernel.data = layer.kernel.detach()[:, self._order(layer.kernel.shape[1])].contiguous()
            self._flattened = None
        self.parts[layer.name] = layer

    def _take_normalization(self, layer: BatchNormalization) -> None:
        part = Normalization(layer, self._order(len(layer.moving_mean)))
        if len(layer.input_shape or ()) == 3:
            self._add_channels_first(layer, part)
        else:
            self.parts[layer.name] = part

    def _over_channels(self, layer: Activation | Softmax | Rescaling) -> nn.Module:
        """Return what a layer that looks at the axes does to [batch, channels, height, width]."""
        if isinstance(layer, Rescaling):
            return ChannelScale(layer)
        if isinstance(layer, Activation):
            return Step(partial(activate_channels_first, layer.activation))
        return Step(partial(activations.softmax, axis=CHANNELS_FIRST.index(layer.axis % 4)))

    def _order(self, features: int) -> torch.Tensor:
        """Return which of the network's features lies at each place here."""
        order = torch.arange(features)
        if self._flattened is None:
            return order
        return order.reshape(self._flattened).permute(2, 0, 1).flatten()


def _any_order(layer: Activation | Softmax) -> bool:
    """Tell whether a layer over flat features gives the same for them in another order, in that order."""
    return isinstance(layer, Softmax) or activations.over_axis(layer.activation, -1) is not None
