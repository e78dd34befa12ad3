"""Owns Keras' change of a sample's shape; knows no other layer."""

import math
from collections.abc import Sequence
from typing import Unpack

import torch

from conveyor_exporter.arguments import Shape, is_integer
from conveyor_exporter.errors import InvalidArgument, InvalidArgumentType, InvalidInput
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.options import LayerOptions


class Reshape(Layer):
    """Give each sample other axes, its values in the same order: float32 [batch, ...] to [batch, *target_shape].

    Args:
        target_shape: the axes without the batch axis; one of them may be -1 and takes what is left.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    def __init__(self, target_shape: Sequence[int], **options: Unpack[LayerOptions]) -> None:
        super().__init__(options)
        if not isinstance(target_shape, Sequence) or isinstance(target_shape, str):
            raise InvalidArgumentType(
                f"{self.kind}: `target_shape` must be a tuple such as (28, 28, 1), got {target_shape!r}."
            )
        axes = [int(axis) for axis in target_shape if is_integer(axis) and (int(axis) >= 1 or int(axis) == -1)]
        if not axes or len(axes) != len(target_shape) or axes.count(-1) > 1:
            raise InvalidArgument(
                f"{self.kind}: `target_shape` must hold positive integers, and -1 at most once, got {target_shape!r}."
            )
        self.target_shape = tuple(axes)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the target shape, its -1 filled in."""
        values, known = math.prod(input_shape), math.prod(axis for axis in self.target_shape if axis != -1)
        if values % known or (-1 not in self.target_shape and values != known):
            raise InvalidInput(
                f"{self.title}: {values} values of shape {input_shape} cannot take the shape {self.target_shape}."
            )
        return tuple(values // known if axis == -1 else axis for axis in self.target_shape)

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, *target_shape] for float32 [batch, ...]."""
        return inputs.reshape(-1, *self.output_shape_for(tuple(inputs.shape[1:])))
