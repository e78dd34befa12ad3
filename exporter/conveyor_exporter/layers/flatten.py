"""Owns Keras' Flatten; knows no other layer."""

import math
from typing import Unpack

import torch

from conveyor_exporter.arguments import Shape, check_data_format
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.options import LayerOptions


class Flatten(Layer):
    """Lay all axes of a sample into one, the last axis fastest: (height, width, channels) order for images.

    Input float32 [batch, ...], output float32 [batch, product of the other axes].

    Args:
        data_format: `channels_last`, the only one that there is.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
    """

    def __init__(self, data_format: str | None = None, **options: Unpack[LayerOptions]) -> None:
        super().__init__(options)
        check_data_format(data_format, self.kind)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return (product of the axes,)."""
        return (math.prod(input_shape),)

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, features] for [batch, ...]."""
        return inputs.flatten(1)
