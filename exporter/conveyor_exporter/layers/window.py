"""Owns where a window that slides over an image comes to lie: its reach, output sizes, padding. Knows no layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from conveyor_exporter.arguments import Border, Pair

NO_BORDER: Border = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Window:
    """A window of cells that a convolution or a pooling slides over an image.

    Attributes:
        size: (height, width) in cells.
        strides: steps between two places, (down, right).
        padding: `valid` keeps the window inside the image; `same` gives ceil(size / stride) places an axis.
        dilation: distance between two cells of the window, (down, right).
        border: cells that lie around the image before `padding` is looked at.
    """

    size: Pair
    strides: Pair
    padding: str
    dilation: Pair = (1, 1)
    border: Border = NO_BORDER

    def extent(self, axis: Literal[0, 1]) -> int:
        """Return how many pixels the window reaches over: (size - 1) * dilation + 1."""
        return (self.size[axis] - 1) * self.dilation[axis] + 1

    def output_size(self, size: int, axis: Literal[0, 1]) -> int:
        """Return at how many places the window lies along an axis of `size` pixels; below 1, it does not fit."""
        size += sum(self.border[axis])
        if self.padding == "same":
            return -(-size // self.strides[axis])
        return (size - self.extent(axis)) // self.strides[axis] + 1

    def pads(self, height: int, width: int) -> Border:
        """Return the cells to put around an image, border and padding; Keras gives the odd one to the end."""
        return self._pads(height, 0), self._pads(width, 1)

    def _pads(self, size: int, axis: Literal[0, 1]) -> Pair:
        before, after = self.border[axis]
        if self.padding == "valid":
            return before, after
        reach = (self.output_size(size, axis) - 1) * self.strides[axis] + self.extent(axis)
        total = max(0, reach - size - before - after)
        return before + total // 2, after + total - total // 2


def pad_evenly(images: torch.Tensor, pads: Border, value: float) -> tuple[torch.Tensor, Pair]:
    """Return (images, padding) such that torch's `padding`, the same at both ends of an axis, makes up `pads`.

    Args:
        images: [batch, channels, height, width].
        pads: cells around them; when its ends differ they are put there at once, filled with `value`.
        value: what torch's own padding would count as.
    """
    (top, bottom), (left, right) = pads
    if (top, left) == (bottom, right):
        return images, (top, left)
    return functional.pad(images, (left, right, top, bottom), value=value), (0, 0)


def convolve(
    images: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, window: Window, groups: int
) -> torch.Tensor:
    """Return the cross-correlation of [batch, channels, height, width] with [filters, channels / groups, *size]."""
    images, padding = pad_evenly(images, window.pads(*images.shape[2:]), 0.0)
    return functional.conv2d(images, kernel, bias, window.strides, padding, window.dilation, groups)


def max_pool(images: torch.Tensor, window: Window) -> torch.Tensor:
    """Return the largest value in each place of the window; padded cells never win."""
    images, padding = pad_evenly(images, window.pads(*images.shape[2:]), -torch.inf)
    return functional.max_pool2d(images, window.size, window.strides, padding)


def average_pool(images: torch.Tensor, window: Window) -> torch.Tensor:
    """Return the mean of the pixels in each place of the window; padded cells are not counted."""
    (top, bottom), (left, right) = pads = window.pads(*images.shape[2:])
    pool: Callable[..., torch.Tensor] = functional.avg_pool2d
    if (top, left) == (bottom, right):
        return pool(images, window.size, window.strides, (top, left), count_include_pad=False)
    inside, _ = pad_evenly(torch.ones_like(images[:1, :1]), pads, 0.0)
    padded, _ = pad_evenly(images, pads, 0.0)
    return pool(padded, window.size, window.strides) / pool(inside, window.size, window.strides)
