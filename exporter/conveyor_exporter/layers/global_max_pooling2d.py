"""Owns Keras' maximum over a whole image; knows no other layer."""

import torch

from conveyor_exporter.layers.global_pooling2d import GlobalPooling2D


class GlobalMaxPooling2D(GlobalPooling2D):
    """Take the largest value of each channel over the whole image; see `GlobalPooling2D` for the arguments."""

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, channels] or [batch, 1, 1, channels] for [batch, height, width, channels]."""
        return inputs.amax((1, 2), keepdim=self.keepdims)
