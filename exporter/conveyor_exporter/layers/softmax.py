"""Owns Keras' softmax over an axis; knows no other layer."""

from collections.abc import Sequence
from typing import Unpack

import torch

from conveyor_exporter import activations, arguments
from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidArgument, InvalidInput
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.options import LayerOptions


class Softmax(Layer):
    """Return exp(x) divided by its sum over an axis: float32 [batch, ...] to float32 [batch, ...].

    Args:
        axis: the axis to sum over, -1 for the last; counted with the batch axis, which is 0 and cannot be it.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    def __init__(self, axis: int | Sequence[int] = -1, **options: Unpack[LayerOptions]) -> None:
        super().__init__(options)
        self.axis = arguments.axis(axis, "axis", self.kind)
        if self.axis == 0:
            raise InvalidArgument(f"{self.kind}: `axis` 0 is the batch axis; a softmax over it would mix the samples.")

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the shape as it is."""
        rank = len(input_shape) + 1
        if not 0 < self.axis % rank == (self.axis if self.axis > 0 else self.axis + rank):
            raise InvalidInput(f"{self.title}: axis={self.axis} is not an axis of a sample of shape {input_shape}.")
        activations.warn_if_constant(activations.softmax, input_shape[self.axis % rank - 1], self.title)
        return input_shape

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, ...] for float32 [batch, ...]."""
        return activations.softmax(inputs, self.axis)
