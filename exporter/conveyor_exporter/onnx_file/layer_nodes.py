"""Owns each layer as ONNX operators, for the layout that it is given. Knows not how a layout comes about."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.arguments import Border, Shape
from conveyor_exporter.layers import (
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    GlobalAveragePooling2D,
    LeakyReLU,
    MaxPooling2D,
    ReLU,
    ZeroPadding2D,
)
from conveyor_exporter.layers.global_pooling2d import GlobalPooling2D
from conveyor_exporter.layers.pooling2d import Pooling2D
from conveyor_exporter.onnx_file.activation_nodes import Place, write_activation
from conveyor_exporter.onnx_file.affine_folding import Affine
from conveyor_exporter.onnx_file.graph_writer import GraphWriter

CHANNELS_FIRST = [0, 3, 1, 2]

Order = NDArray[np.intp]
"""Which of the network's features lies at each place."""


def channels_first(x: str, graph: GraphWriter, name: str, shape: Shape) -> str:
    """Add the turn of [batch, height, width, channels] to [batch, channels, height, width].

    Of one channel nothing moves in memory: a Reshape copies nothing, which saves up to 2 % of a small network's time.
    """
    height, width, channels = shape
    if channels == 1:
        return graph.node(name, "Reshape", x, np.array([-1, 1, height, width]))
    return graph.node(name, "Transpose", x, perm=CHANNELS_FIRST)


def convolution(x: str, layer: Conv2D | DepthwiseConv2D, place: Place) -> str:
    """Add a convolution of [batch, channels, height, width] with its activation."""
    kernel, *bias = layer.get_weights()
    if isinstance(layer, DepthwiseConv2D):
        groups = kernel.shape[2]
        kernel = kernel.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])
    else:
        groups = layer.groups
        kernel = kernel.transpose(3, 2, 0, 1)
    height, width, _ = layer.image_shape(layer.input_shape or ())
    outputs = place.node(
        "Conv",
        x,
        *_constants(place, kernel, *bias),
        **_unless_neutral(1, strides=layer.window.strides, dilations=layer.window.dilation),
        **_unless_neutral(0, pads=_pads(layer.window.pads(height, width))),
        **({"group": groups} if groups > 1 else {}),
    )
    return write_activation(layer.activation, outputs, place)


def dense(x: str, layer: Dense, place: Place, order: Order) -> str:
    """Add a Dense over [batch, features], which lie in this order."""
    kernel, *bias = layer.get_weights()
    return write_activation(layer.activation, place.node("Gemm", x, *_constants(place, kernel[order], *bias)), place)


def dense_over_pixels(x: str, layer: Dense, place: Place) -> str:
    """Add a Dense over the channels of [batch, channels, height, width]: a convolution with a kernel of one pixel."""
    kernel, *bias = layer.get_weights()
    outputs = place.node("Conv", x, *_constants(place, kernel.T[:, :, None, None], *bias))
    return write_activation(layer.activation, outputs, place)


def dense_over_image(x: str, layer: Dense, place: Place, shape: Shape) -> str:
    """Add a Dense with one unit over all of [batch, channels, height, width]: a sum a channel, and their sum.

    onnxruntime fills a matrix of one column up to 16, then reads and multiplies all of them; this form takes less than
    half the time. The bias is that of the first channel.

    Args:
        x: the images.
        layer: a Dense with one unit.
        place: where to write it.
        shape: (height, width, channels), the order of the rows of the kernel.
    """
    kernel, *bias = layer.get_weights()
    channels = shape[-1]
    kernel = kernel.reshape(shape).transpose(2, 0, 1)[:, None]
    biases = [np.pad(values, (0, channels - 1)) for values in bias]
    constants = _constants(place, kernel, *biases)
    sums = place.node("Conv", x, *constants, group=channels)
    return write_activation(layer.activation, place.node("ReduceSum", sums, np.array([1, 2]), keepdims=0), place)


def dense_over_last_axis(x: str, layer: Dense, place: Place) -> str:
    """Add a Dense over the last axis of [batch, ..., features]."""
    kernel, *bias = layer.get_weights()
    outputs = place.node("MatMul", x, *_constants(place, kernel))
    if bias:
        outputs = place.node("Add", outputs, place.graph.constant(f"{place.layer}.bias", bias[0]))
    return write_activation(layer.activation, outputs, place)


def pooling(x: str, layer: Pooling2D, place: Place) -> str:
    """Add a pooling over windows of [batch, channels, height, width]; cells outside the image do not count."""
    height, width, _ = layer.image_shape(layer.input_shape or ())
    window = layer.window
    return place.node(
        "MaxPool" if isinstance(layer, MaxPooling2D) else "AveragePool",
        x,
        kernel_shape=list(window.size),
        **_unless_neutral(1, strides=window.strides),
        **_unless_neutral(0, pads=_pads(window.pads(height, width))),
        **({"count_include_pad": 0} if isinstance(layer, AveragePooling2D) else {}),
    )


def global_pooling(x: str, layer: GlobalPooling2D, place: Place) -> str:
    """Add a pooling over whole images, in either layout, to [batch, channels] or with `keepdims` as many axes."""
    mean = isinstance(layer, GlobalAveragePooling2D)
    if place.axis != 1:
        operator = "ReduceMean" if mean else "ReduceMax"
        return place.node(operator, x, np.array([1, 2]), keepdims=int(layer.keepdims))
    outputs = place.node("GlobalAveragePool" if mean else "GlobalMaxPool", x)
    return outputs if layer.keepdims else place.node("Flatten", outputs)


def border(x: str, layer: ZeroPadding2D, place: Place) -> str:
    """Add zeros around [batch, channels, height, width]."""
    (top, bottom), (left, right) = layer.padding
    return place.node("Pad", x, np.array([0, 0, top, left, 0, 0, bottom, right]))


def normalization(x: str, layer: BatchNormalization, place: Place, order: Order) -> str:
    """Add a batch normalisation of [batch, channels] or [batch, channels, height, width], channels in this order."""
    weights = {name: weight.detach().cpu().numpy()[order] for name, weight in layer.weights().items()}
    weights = {"gamma": np.ones(len(order)), "beta": np.zeros(len(order))} | weights
    names = (place.graph.constant(f"{place.layer}.{name}", values) for name, values in weights.items())
    return place.node("BatchNormalization", x, *names, epsilon=layer.epsilon)


def scale_and_shift(x: str, affine: Affine, place: Place, order: Order) -> str:
    """Add x * scale + shift, channel by channel, channels in this order; what changes nothing is left out."""
    axes = (-1, 1, 1) if place.axis == 1 else (-1,)
    for operator, values, neutral in (("Mul", affine.scale, 1), ("Add", affine.shift, 0)):
        if (values == values[0]).all():
            x = x if values[0] == neutral else place.node(operator, x, float(values[0]))
        else:
            x = place.node(operator, x, values[order].reshape(axes))
    return x


def rectifier(x: str, layer: ReLU | LeakyReLU, place: Place) -> str:
    """Add a rectifier with its bends."""
    slope = layer.negative_slope
    if isinstance(layer, LeakyReLU):
        return place.node("LeakyRelu", x, alpha=slope)
    if layer.max_value is None and not layer.threshold:
        return place.node("LeakyRelu", x, alpha=slope) if slope else place.node("Relu", x)
    outputs = place.node("ThresholdedRelu", x, alpha=layer.threshold) if layer.threshold else x
    if layer.max_value is not None:
        outputs = place.node("Clip", outputs, 0.0, layer.max_value)
    if slope:
        below = place.node("Relu", place.node("Sub", layer.threshold, x))
        outputs = place.node("Sub", outputs, place.node("Mul", below, slope))
    return outputs


def _constants(place: Place, kernel: NDArray[np.floating], *bias: NDArray[np.floating]) -> list[str]:
    names = [f"{place.layer}.{name}" for name in ("kernel", "bias")]
    return [place.graph.constant(name, values) for name, values in zip(names, (kernel, *bias), strict=False)]


def _unless_neutral(neutral: int, **attributes: Sequence[int]) -> dict[str, list[int]]:
    """Return the attributes of a window that say something: ONNX takes the neutral number where there is none."""
    return {name: list(values) for name, values in attributes.items() if any(v != neutral for v in values)}


def _pads(pads: Border) -> list[int]:
    """Return the cells around an image in ONNX' order: all beginnings, then all ends."""
    (top, bottom), (left, right) = pads
    return [top, left, bottom, right]
