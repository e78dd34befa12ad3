"""Owns Keras' border of zeros; knows no other layer."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch.nn import functional

from conveyor_exporter import arguments
from conveyor_exporter.arguments import Shape
from conveyor_exporter.layers.options import LayerOptions
from conveyor_exporter.layers.spatial import SpatialLayer


class ZeroPadding2D(SpatialLayer):
    """Put zeros around images.

    Input float32 [batch, height, width, channels], output float32 [batch, new height, new width, channels].

    Args:
        padding: cells to add: one number for all sides, (height, width), or ((top, bottom), (left, right)).
        data_format: `channels_last`, the only one that there is.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
    """

    def __init__(
        self,
        padding: int | Sequence[int] | Sequence[Sequence[int]] = (1, 1),
        data_format: str | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(data_format, options)
        self.padding = arguments.border(padding, "padding", self.kind)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return (new height, new width, channels) for (height, width, channels)."""
        height, width, channels = self.image_shape(input_shape)
        return height + sum(self.padding[0]), width + sum(self.padding[1]), channels

    def compute_channels_first(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, channels, new height, new width] for [batch, channels, height, width]."""
        (top, bottom), (left, right) = self.padding
        return functional.pad(inputs, (left, right, top, bottom))
