"""Owns Keras' batch normalisation; knows no other layer."""

from collections.abc import Sequence
from typing import ClassVar, Unpack

import torch
from torch import nn

from conveyor_exporter import arguments, initializers
from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidArgument, InvalidInput
from conveyor_exporter.initializers import Initializer
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.options import LayerOptions


class BatchNormalization(Layer):
    """Return (x - mean) / sqrt(variance + epsilon) * gamma + beta, channel by channel (Ioffe and Szegedy, 2015).

    Float32 [batch, ..., channels] to float32 [batch, ..., channels]. In training, the mean and the variance are those
    of the batch, and the moving ones follow them; otherwise, or when `trainable` is false, they are the moving ones.
    As in Keras, the moving variance follows the biased variance of the batch, which torch's own layer does not do.

    Args:
        axis: the axis of the channels; it must be the last one.
        momentum: how much of the moving values stays at each step, from 0 to 1.
        epsilon: what keeps the root above 0.
        center: whether beta is added.
        scale: whether gamma is multiplied.
        beta_initializer: `zeros`, another name, or a function from a shape to a tensor.
        gamma_initializer: `ones`, another name, or a function from a shape to a tensor.
        moving_mean_initializer: `zeros`, another name, or a function from a shape to a tensor.
        moving_variance_initializer: `ones`, another name, or a function from a shape to a tensor.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    keras_axes: ClassVar = {"gamma": (0,), "beta": (0,), "moving_mean": (0,), "moving_variance": (0,)}

    gamma: nn.Parameter | None
    beta: nn.Parameter | None
    moving_mean: torch.Tensor
    moving_variance: torch.Tensor

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: str | Initializer = "zeros",
        gamma_initializer: str | Initializer = "ones",
        moving_mean_initializer: str | Initializer = "zeros",
        moving_variance_initializer: str | Initializer = "ones",
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(options)
        self.axis = arguments.axis(axis, "axis", self.kind)
        self.momentum = arguments.number(momentum, "momentum", self.kind, at_least=0, at_most=1)
        self.epsilon = arguments.number(epsilon, "epsilon", self.kind, at_least=0)
        self.center = arguments.boolean(center, "center", self.kind)
        self.scale = arguments.boolean(scale, "scale", self.kind)
        self._initializers = {
            "gamma": initializers.get(gamma_initializer, "gamma_initializer", self.kind),
            "beta": initializers.get(beta_initializer, "beta_initializer", self.kind),
            "moving_mean": initializers.get(moving_mean_initializer, "moving_mean_initializer", self.kind),
            "moving_variance": initializers.get(moving_variance_initializer, "moving_variance_initializer", self.kind),
        }
        if self.axis != -1 and self.axis < 1:
            raise InvalidArgument(f"{self.kind}: `axis` must be -1, the channels, got {axis!r}.")

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the shape as it is."""
        if not input_shape or self.axis not in (-1, len(input_shape)):
            raise InvalidInput(
                f"{self.title}: axis={self.axis} is not the last axis of [batch, {', '.join(map(str, input_shape))}], "
                "and only over the last one, the channels, is normalised here. Use axis=-1."
            )
        return input_shape

    def create_weights(self, input_shape: Shape) -> None:
        """Create gamma, beta, the moving mean and the moving variance, all (channels,)."""
        wanted = {"gamma": self.scale, "beta": self.center}
        for name, initializer in self._initializers.items():
            if wanted.get(name, True):
                self.add_weight(name, (input_shape[-1],), initializer, learned=name in wanted)
            else:
                self.register_parameter(name, None)

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, ..., channels] for float32 [batch, ..., channels]."""
        mean, variance = self.moving_mean, self.moving_variance
        if self.training and self.trainable:
            axes = tuple(range(inputs.ndim - 1))
            mean, variance = inputs.mean(axes), inputs.var(axes, correction=0)
            with torch.no_grad():
                self.moving_mean.lerp_(mean, 1 - self.momentum)
                self.moving_variance.lerp_(variance, 1 - self.momentum)
        factor = torch.rsqrt(variance + self.epsilon)
        if self.gamma is not None:
            factor = factor * self.gamma
        outputs = (inputs - mean) * factor
        return outputs if self.beta is None else outputs + self.beta
