"""Owns what layers over images share: the layout of their axes and the checks of an image's shape.

Knows no particular layer and no model.
"""

from collections.abc import Mapping
from typing import Any

import torch

from conveyor_exporter import activations
from conveyor_exporter.activations import Activation
from conveyor_exporter.arguments import Shape, check_data_format
from conveyor_exporter.errors import InvalidArgument, InvalidInput
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.window import Window


class SpatialLayer(Layer):
    """A layer over the height and width of images.

    Torch and ONNX compute on [batch, channels, height, width]; Keras' meaning is [batch, height, width, channels].
    A subclass computes channels first in `compute_channels_first`; this class turns the axes around it.
    """

    def __init__(self, data_format: str | None, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        check_data_format(data_format, self.kind)
        if self.declared_input_shape is not None and len(self.declared_input_shape) != 3:
            raise InvalidArgument(f"{self.kind}: `input_shape` {_image_shape_advice(self.declared_input_shape)}")

    def image_shape(self, input_shape: Shape) -> tuple[int, int, int]:
        """Return `input_shape` as (height, width, channels).

        Raises:
            InvalidInput: it has another number of axes.
        """
        if len(input_shape) != 3:
            raise InvalidInput(f"{self.title}: the shape of one sample {_image_shape_advice(input_shape)}")
        return input_shape[0], input_shape[1], input_shape[2]

    def compute_channels_first(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, channels, height, width] for an input in the same layout."""
        raise NotImplementedError

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, height, width, channels] for an input in the same layout."""
        return self.compute_channels_first(to_channels_first(inputs)).permute(0, 2, 3, 1)


class WindowLayer(SpatialLayer):
    """A layer that slides a window over images; a subclass sets `window`."""

    window: Window

    def output_sizes(self, height: int, width: int, described: str) -> tuple[int, int]:
        """Return at how many places the window lies, (down, right).

        Args:
            height: of the image.
            width: of the image.
            described: what the message says of the window, such as `a kernel of 3x3 pixels`.

        Raises:
            InvalidInput: the window does not fit into the image.
        """
        window = self.window
        sizes = window.output_size(height, 0), window.output_size(width, 1)
        if min(sizes) < 1:
            reach = f"{window.extent(0)}x{window.extent(1)}"
            raise InvalidInput(
                f"{self.title}: a window of {reach} pixels ({described}) does not fit into an image of "
                f"{height}x{width}. Use a smaller one, or padding='same'."
            )
        return sizes


def to_channels_first(images: torch.Tensor) -> torch.Tensor:
    """Return [batch, height, width, channels] as [batch, channels, height, width]."""
    batch, height, width, channels = images.shape
    if channels == 1:
        # The same values in the same order. A permuted view would have strides that oneDNN takes for channels last, and
        # then it computes wrong values for strides (1, n) and an output of one column (seen with torch 2.13).
        return images.reshape(batch, 1, height, width)
    return images.permute(0, 3, 1, 2)


def activate_channels_first(activation: Activation, inputs: torch.Tensor) -> torch.Tensor:
    """Apply an activation to [batch, channels, height, width] as if the channels were the last axis."""
    if activations.is_elementwise(activation):
        return activation(inputs)
    if (over_axis := activations.over_axis(activation, 1)) is not None:
        return over_axis(inputs)
    return activation(inputs.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _image_shape_advice(shape: Shape) -> str:
    message = f"must be (height, width, channels), got {shape}."
    if len(shape) == 2:
        message += f" For grey pictures add the channel: {(*shape, 1)}; in a call, add the batch axis: x[None]."
    return message
