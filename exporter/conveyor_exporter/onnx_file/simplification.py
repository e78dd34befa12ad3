"""Owns the shortest chain of layers that answers as a network does. Knows nothing of ONNX."""

import copy
from collections.abc import Iterable
from dataclasses import replace

from conveyor_exporter import activations
from conveyor_exporter.layers import (
    Activation,
    Conv2D,
    DepthwiseConv2D,
    Dropout,
    Layer,
    SeparableConv2D,
    ZeroPadding2D,
)
from conveyor_exporter.onnx_file.affine_folding import fold


def simplest(layers: Iterable[Layer]) -> list[Layer]:
    """Return float64 copies of built layers that give the same answers, in fewer of the simplest layers.

    What only training needs is absent, a separable convolution is the two that it is made of, what scales and shifts
    channels is folded into the layers beside it, and zeros in front of a convolution are part of its padding.
    """
    return _merge_borders(fold([part for layer in layers for part in _parts(layer)]))


def _parts(layer: Layer) -> list[Layer]:
    if isinstance(layer, Dropout) or (isinstance(layer, Activation) and layer.activation is activations.linear):
        return []
    layer = copy.deepcopy(layer).double()
    return _split(layer) if isinstance(layer, SeparableConv2D) else [layer]


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
    pointwise.activation, pointwise.output_shape = layer.activation, layer.output_shape
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
