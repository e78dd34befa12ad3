"""Owns Keras' mean over windows; knows no other layer."""

import torch

from conveyor_exporter.layers.pooling2d import Pooling2D
from conveyor_exporter.layers.window import average_pool


class AveragePooling2D(Pooling2D):
    """Take the mean of each channel in each place of a window, over the pixels that lie inside the image.

    See `Pooling2D` for the arguments.
    """

    def compute_channels_first(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, channels, new height, new width] for [batch, channels, height, width]."""
        return average_pool(inputs, self.window)
