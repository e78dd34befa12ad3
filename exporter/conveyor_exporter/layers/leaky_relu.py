"""Owns Keras' rectifier that lets a part of the negative values pass; knows no other layer."""

from typing import Unpack

import torch
from torch.nn import functional

from conveyor_exporter import arguments
from conveyor_exporter.arguments import Shape
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.options import LayerOptions


class LeakyReLU(Layer):
    """Return x, or `negative_slope` * x below zero: float32 [batch, ...] to float32 [batch, ...].

    Args:
        negative_slope: at least 0. The layer's default is 0.3; the activation named `leaky_relu` has 0.2, as in Keras.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    def __init__(self, negative_slope: float = 0.3, **options: Unpack[LayerOptions]) -> None:
        super().__init__(options)
        self.negative_slope = arguments.number(negative_slope, "negative_slope", self.kind, at_least=0)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the shape as it is."""
        return input_shape

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, ...] for float32 [batch, ...]."""
        return functional.leaky_relu(inputs, self.negative_slope)
