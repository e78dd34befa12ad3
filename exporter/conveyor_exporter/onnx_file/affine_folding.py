"""Owns the folding of what scales and shifts each channel (batch normalisation, rescaling) into the layer beside it.

Works in float64 on layers of its own and changes them; knows nothing of ONNX and of the order of axes in memory.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter import activations
from conveyor_exporter.initializers import zeros
from conveyor_exporter.layers import (
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Layer,
    MaxPooling2D,
    Rescaling,
    ZeroPadding2D,
)

LinearLayer = Conv2D | DepthwiseConv2D | Dense
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """x * scale + shift, channel by channel.

    Attributes:
        scale: float64 [channels].
        shift: float64 [channels].
    """

    scale: Vector
    shift: Vector

    @classmethod
    def of(cls, layer: Layer) -> "Affine | None":
        """Return what a built layer does outside training, when it is such a thing, else None."""
        if isinstance(layer, Rescaling) and layer.input_shape is not None:
            scale, shift = np.broadcast_arrays(layer.scale, layer.offset, np.empty(layer.input_shape[-1]))[:2]
            return cls(scale.astype(np.float64), shift.astype(np.float64))
        if isinstance(layer, BatchNormalization) and layer.built:
            weights = {name: tensor.detach().double().cpu().numpy() for name, tensor in layer.weights().items()}
            scale = weights.get("gamma", 1.0) / np.sqrt(weights["moving_variance"] + layer.epsilon)
            return cls(scale, weights.get("beta", 0.0) - weights["moving_mean"] * scale)
        return None

    def commutes_with(self, layer: Layer) -> bool:
        """Tell whether it gives the same before and behind `layer`, apart from rounding."""
        if isinstance(layer, MaxPooling2D | GlobalMaxPooling2D):
            return bool((self.scale >= 0).all())  # then the largest value stays the largest
        if isinstance(layer, ZeroPadding2D):
            return not self.shift.any()  # else the zeros would not be zeros any more
        return isinstance(layer, Flatten | AveragePooling2D | GlobalAveragePooling2D)


def fold(layers: list[Layer]) -> list[Layer]:
    """Return the layers without the batch normalisations and rescalings that another layer's weights can take over.

    Each goes into the linear layer before it, or else into the linear layer behind it, past what it commutes with.

    Args:
        layers: a chain of built layers, float64; those that take something over are changed in place.
    """
    kept: list[Layer] = []
    for layer in layers:
        affine, before = Affine.of(layer), kept[-1] if kept else None
        if affine is not None and isinstance(before, LinearLayer) and before.activation is activations.linear:
            _fold_into_outputs(affine, before)
        else:
            kept.append(layer)
    for position in reversed(range(len(kept))):
        affine = Affine.of(kept[position])
        if affine is not None and (taker := _taker(affine, kept[position + 1 :])) is not None:
            _fold_into_inputs(affine, taker)
            del kept[position]
    return kept


def _taker(affine: Affine, behind: list[Layer]) -> LinearLayer | None:
    """Return the layer behind that can take over `affine` before it multiplies."""
    for layer in behind:
        if isinstance(layer, Dense):
            return layer
        if isinstance(layer, Conv2D | DepthwiseConv2D):
            return None if affine.shift.any() and _pads(layer) else layer  # padded zeros are not shifted
        if not affine.commutes_with(layer):
            return None
    return None


def _pads(layer: Conv2D | DepthwiseConv2D) -> bool:
    height, width, _ = layer.image_shape(layer.input_shape or ())
    return any(map(any, layer.window.pads(height, width)))


def _fold_into_outputs(affine: Affine, layer: LinearLayer) -> None:
    """Let the layer's weights do what `affine` does behind it."""
    kernel, bias = _weights(layer)
    scale = affine.scale.reshape(kernel.shape[2:]) if isinstance(layer, DepthwiseConv2D) else affine.scale
    _set_weights(layer, kernel * scale, bias * affine.scale + affine.shift)


def _fold_into_inputs(affine: Affine, layer: LinearLayer) -> None:
    """Let the layer's weights do what `affine` does before it."""
    kernel, bias = _weights(layer)
    scale, shift = (_for_inputs(vector, layer, kernel) for vector in (affine.scale, affine.shift))
    moved = kernel * shift
    axes = (0, 1) if isinstance(layer, DepthwiseConv2D) else tuple(range(moved.ndim - 1))
    _set_weights(layer, kernel * scale, bias + moved.sum(axes).ravel())


def _for_inputs(vector: Vector, layer: LinearLayer, kernel: Vector) -> Vector:
    """Return values of the input channels so that they multiply the right rows of a kernel in Keras' axis order."""
    if isinstance(layer, DepthwiseConv2D):
        return vector[:, None]
    if isinstance(layer, Dense):  # behind a Flatten its rows are the pixels, the channels of each side by side
        return np.tile(vector, len(kernel) // len(vector))[:, None]
    by_group = vector.reshape(layer.groups, -1).T  # [channels / groups, groups]
    return np.repeat(by_group, layer.filters // layer.groups, axis=1)


def _weights(layer: LinearLayer) -> tuple[Vector, Vector]:
    """Return kernel and bias in Keras' axis order; the zeros that a missing bias stands for."""
    kernel, *bias = layer.get_weights()
    outputs = kernel[0, 0].size if isinstance(layer, DepthwiseConv2D) else kernel.shape[-1]
    return kernel, bias[0] if bias else np.zeros(outputs)


def _set_weights(layer: LinearLayer, kernel: Vector, bias: Vector) -> None:
    if not layer.use_bias:
        layer.use_bias = True
        layer.add_weight("bias", bias.shape, zeros)
        layer.double()
    layer.set_weights([kernel, bias])
