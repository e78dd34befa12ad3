"""Owns what the poolings over a whole image share. Knows no particular one."""

from typing import Unpack

from conveyor_exporter import arguments
from conveyor_exporter.arguments import Shape
from conveyor_exporter.layers.options import LayerOptions
from conveyor_exporter.layers.spatial import SpatialLayer


class GlobalPooling2D(SpatialLayer):
    """Reduce each channel of an image to one value.

    Input float32 [batch, height, width, channels], output float32 [batch, channels], or with `keepdims`
    [batch, 1, 1, channels].

    Args:
        data_format: `channels_last`, the only one that there is.
        keepdims: whether the height and the width stay as axes of size 1.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **options: Unpack[LayerOptions]) -> None:
        super().__init__(data_format, options)
        self.keepdims = arguments.boolean(keepdims, "keepdims", self.kind)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return (channels,), or (1, 1, channels), for (height, width, channels)."""
        channels = self.image_shape(input_shape)[-1]
        return (1, 1, channels) if self.keepdims else (channels,)
