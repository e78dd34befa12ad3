"""Owns what the poolings over windows share: their arguments and output shape. Knows no particular one."""

from collections.abc import Sequence
from typing import Unpack

from conveyor_exporter import arguments
from conveyor_exporter.arguments import Shape
from conveyor_exporter.layers.options import LayerOptions
from conveyor_exporter.layers.spatial import WindowLayer
from conveyor_exporter.layers.window import Window


class Pooling2D(WindowLayer):
    """Reduce each place of a window over an image to one value a channel.

    Input float32 [batch, height, width, channels], output float32 [batch, new height, new width, channels].

    Args:
        pool_size: height and width of the window, one integer for both or a pair.
        strides: steps between two places of the window, one integer or a pair; None for `pool_size`.
        padding: `valid` (the window stays inside the image) or `same` (the output has ceil(size / stride) cells an
            axis; cells outside the image do not count).
        data_format: `channels_last`, the only one that there is.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    def __init__(
        self,
        pool_size: int | Sequence[int] = (2, 2),
        strides: int | Sequence[int] | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(data_format, options)
        self.pool_size = arguments.positive_pair(pool_size, "pool_size", self.kind)
        given = self.pool_size if strides is None else strides
        self.strides = arguments.positive_pair(given, "strides", self.kind)
        self.padding = arguments.one_of(padding, ("valid", "same"), "padding", self.kind)
        self.window = Window(self.pool_size, self.strides, self.padding)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return (new height, new width, channels) for (height, width, channels)."""
        height, width, channels = self.image_shape(input_shape)
        return (*self.output_sizes(height, width, f"pool_size={self.pool_size}"), channels)
