"""Owns Keras' layer around an activation function; knows no other layer."""

from typing import Unpack

import torch

from conveyor_exporter import activations
from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidArgument
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.options import LayerOptions


class Activation(Layer):
    """Apply an activation function: float32 [batch, ...] to float32 [batch, ...], the channels in the last axis.

    Args:
        activation: a name such as `relu`, or a function from a tensor to a tensor of the same shape.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: the activation is unknown.
    """

    def __init__(self, activation: str | activations.Activation, **options: Unpack[LayerOptions]) -> None:
        super().__init__(options)
        if activation is None:
            raise InvalidArgument(f"{self.kind}: `activation` must be a name or a function, got None.")
        self.activation = activations.get(activation, self.kind)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the shape as it is; with `glu`, half the channels."""
        activations.warn_if_constant(self.activation, input_shape[-1], self.title)
        channels = activations.channels_after(self.activation, input_shape[-1], self.title)
        return (*input_shape[:-1], channels)

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, ...] for float32 [batch, ...]."""
        return self.activation(inputs)
