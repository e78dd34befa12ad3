"""Owns the modules that only an inference twin has: they compute channels first and with nothing left to decide.

Knows nothing of the walk that puts them together.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from conveyor_exporter.activations import Activation
from conveyor_exporter.arguments import Border
from conveyor_exporter.layers import BatchNormalization, Conv2D, Dense, DepthwiseConv2D, MaxPooling2D, Rescaling
from conveyor_exporter.layers.pooling2d import Pooling2D
from conveyor_exporter.layers.spatial import activate_channels_first
from conveyor_exporter.layers.window import NO_BORDER, Window, convolve


class Step(nn.Module):
    """A function without weights, under a name of its own in the exported file."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the function returns."""
        return self._function(inputs)


class Turn(nn.Module):
    """Puts the axes of a tensor in another order."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the same values, axes in the new order."""
        return inputs.permute(self.axes)


class Convolution(nn.Module):
    """A convolution of any kind, with its activation: [batch, channels, height, width] in and out.

    Args:
        kernel: [filters, channels / groups, height, width].
        bias: [filters], or None.
        window: where the kernel comes to lie.
        groups: number of groups that the channels are split into.
        activation: what follows, written for channels in the last axis.
    """

    def __init__(
        self, kernel: torch.Tensor, bias: torch.Tensor | None, window: Window, groups: int, activation: Activation
    ) -> None:
        super().__init__()
        self.kernel = nn.Parameter(kernel.detach().contiguous())
        self.bias = None if bias is None else nn.Parameter(bias.detach())
        self._window, self._groups, self._activation = window, groups, activation

    @classmethod
    def of(cls, layer: Conv2D | DepthwiseConv2D | Dense) -> "Convolution":
        """Return what a built layer over images does; a Dense there is a convolution with a kernel of one pixel."""
        if isinstance(layer, Dense):
            window = Window((1, 1), (1, 1), "valid")
            return cls(layer.kernel[:, :, None, None], layer.bias, window, 1, layer.activation)
        if isinstance(layer, DepthwiseConv2D):
            kernel = layer.kernel.flatten(0, 1).unsqueeze(1)
            return cls(kernel, layer.bias, layer.window, len(layer.kernel), layer.activation)
        return cls(layer.kernel, layer.bias, layer.window, layer.groups, layer.activation)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the convolved images."""
        outputs = convolve(inputs, self.kernel, self.bias, self._window, self._groups)
        return activate_channels_first(self._activation, outputs)


class Pooling(nn.Module):
    """A pooling over windows: [batch, channels, height, width] in and out.

    ONNX pads a pooling by itself, differently at the two ends of an axis, and counts only pixels. Torch can do neither,
    so while a graph is exported the ONNX operator takes the place of what computes the same in torch.

    Args:
        layer: a built layer.
    """

    def __init__(self, layer: Pooling2D) -> None:
        super().__init__()
        self._compute, self._window = layer.compute_channels_first, layer.window
        height, width, _ = layer.image_shape(layer.input_shape or ())
        self._pads: Border = layer.window.pads(height, width)
        self._places = layer.window.output_size(height, 0), layer.window.output_size(width, 1)
        self._operator = "MaxPool" if isinstance(layer, MaxPooling2D) else "AveragePool"

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the pooled images."""
        if self._pads == NO_BORDER or not torch.compiler.is_exporting():
            return self._compute(inputs)
        (top, bottom), (left, right) = self._pads
        attributes: dict[str, int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str]] = {
            "kernel_shape": list(self._window.size),
            "strides": list(self._window.strides),
            "pads": [top, left, bottom, right],
        }
        if self._operator == "AveragePool":
            attributes["count_include_pad"] = 0
        shape = (*inputs.shape[:2], *self._places)
        return torch.onnx.ops.symbolic(self._operator, (inputs,), attributes, dtype=inputs.dtype, shape=shape)


class Normalization(nn.Module):
    """A batch normalisation that no other layer could take over: [batch, channels] or [batch, channels, h, w].

    Args:
        layer: a built layer.
        order: in which its channels lie here.
    """

    def __init__(self, layer: BatchNormalization, order: torch.Tensor) -> None:
        super().__init__()
        mean, variance = layer.moving_mean[order], layer.moving_variance[order]
        self.gamma = nn.Parameter(torch.ones_like(mean) if layer.gamma is None else layer.gamma.detach()[order])
        self.beta = nn.Parameter(torch.zeros_like(mean) if layer.beta is None else layer.beta.detach()[order])
        self.moving_mean, self.moving_variance = nn.Buffer(mean), nn.Buffer(variance)
        self._epsilon = layer.epsilon

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the normalised values."""
        return functional.batch_norm(
            inputs, self.moving_mean, self.moving_variance, self.gamma, self.beta, training=False, eps=self._epsilon
        )


class ChannelScale(nn.Module):
    """A rescaling with numbers for each channel: [batch, channels, height, width] in and out."""

    def __init__(self, layer: Rescaling) -> None:
        super().__init__()
        self.scale = nn.Buffer(torch.tensor(layer.scale, dtype=torch.float64)[:, None, None])
        self.offset = nn.Buffer(torch.tensor(layer.offset, dtype=torch.float64)[:, None, None])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs * scale + offset."""
        return inputs * self.scale + self.offset
