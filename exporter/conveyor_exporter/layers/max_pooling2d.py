"""Owns Keras' maximum over windows; knows no other layer."""

import torch

from conveyor_exporter.layers.pooling2d import Pooling2D
from conveyor_exporter.layers.window import max_pool


class MaxPooling2D(Pooling2D):
    """Take the largest value of each channel in each place of a window; see `Pooling2D` for the arguments."""

    def compute_channels_first(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, channels, new height, new width] for [batch, channels, height, width]."""
        return max_pool(inputs, self.window)
