"""Owns Keras' separable convolution; knows no other layer."""

from collections.abc import Sequence
from typing import ClassVar, Unpack

import torch
from torch import nn
from torch.nn import functional

from conveyor_exporter import activations, arguments, initializers
from conveyor_exporter.activations import Activation
from conveyor_exporter.arguments import Shape, check_spacing
from conveyor_exporter.initializers import Initializer
from conveyor_exporter.layers.options import LayerOptions
from conveyor_exporter.layers.spatial import WindowLayer, activate_channels_first
from conveyor_exporter.layers.window import Window, convolve


class SeparableConv2D(WindowLayer):
    """Convolve each channel on its own, mix the channels pixel by pixel, add a bias, apply an activation.

    Input float32 [batch, height, width, channels], output float32 [batch, new height, new width, filters].

    Args:
        filters: number of output channels.
        kernel_size: height and width of a depthwise kernel, one integer for both or a pair.
        strides: steps between two places of a kernel, one integer or a pair.
        padding: `valid` or `same`, see `Conv2D`.
        data_format: `channels_last`, the only one that there is.
        dilation_rate: distance between two cells of a kernel, one integer or a pair.
        depth_multiplier: number of depthwise kernels a channel.
        activation: a name such as `relu`, a function from a tensor to a tensor, or None.
        use_bias: whether a bias is added.
        depthwise_initializer: `glorot_uniform`, another name, or a function from a shape to a tensor.
        pointwise_initializer: `glorot_uniform`, another name, or a function from a shape to a tensor.
        bias_initializer: `zeros`, another name, or a function from a shape to a tensor.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    keras_axes: ClassVar = {"depthwise_kernel": (2, 3, 0, 1), "pointwise_kernel": (2, 3, 1, 0), "bias": (0,)}

    depthwise_kernel: nn.Parameter
    pointwise_kernel: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        depth_multiplier: int = 1,
        activation: str | Activation | None = None,
        use_bias: bool = True,
        depthwise_initializer: str | Initializer = "glorot_uniform",
        pointwise_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(data_format, options)
        self.filters = arguments.positive_integer(filters, "filters", self.kind)
        self.kernel_size = arguments.positive_pair(kernel_size, "kernel_size", self.kind)
        self.strides = arguments.positive_pair(strides, "strides", self.kind)
        self.padding = arguments.one_of(padding, ("valid", "same"), "padding", self.kind)
        self.dilation_rate = arguments.positive_pair(dilation_rate, "dilation_rate", self.kind)
        check_spacing(self.strides, self.dilation_rate, self.kind)
        self.depth_multiplier = arguments.positive_integer(depth_multiplier, "depth_multiplier", self.kind)
        self.activation = activations.get(activation, self.kind)
        self.use_bias = arguments.boolean(use_bias, "use_bias", self.kind)
        self.depthwise_initializer = initializers.get(depthwise_initializer, "depthwise_initializer", self.kind)
        self.pointwise_initializer = initializers.get(pointwise_initializer, "pointwise_initializer", self.kind)
        self.bias_initializer = initializers.get(bias_initializer, "bias_initializer", self.kind)
        self.window = Window(self.kernel_size, self.strides, self.padding, self.dilation_rate)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return (new height, new width, filters) for (height, width, channels)."""
        height, width, _ = self.image_shape(input_shape)
        described = f"kernel_size={self.kernel_size}, dilation_rate={self.dilation_rate}"
        filters = activations.channels_after(self.activation, self.filters, self.title)
        return (*self.output_sizes(height, width, described), filters)

    def create_weights(self, input_shape: Shape) -> None:
        """Create kernels (height, width, channels, multiplier) and (1, 1, channels * multiplier, filters), and bias."""
        channels, multiplier = input_shape[-1], self.depth_multiplier
        activations.warn_if_constant(self.activation, self.filters, self.title)
        self.add_weight("depthwise_kernel", (*self.kernel_size, channels, multiplier), self.depthwise_initializer)
        self.add_weight("pointwise_kernel", (1, 1, channels * multiplier, self.filters), self.pointwise_initializer)
        if self.use_bias:
            self.add_weight("bias", (self.filters,), self.bias_initializer)
        else:
            self.register_parameter("bias", None)

    def compute_channels_first(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, filters, new height, new width] for [batch, channels, height, width]."""
        kernel = self.depthwise_kernel.flatten(0, 1).unsqueeze(1)
        mixed = convolve(inputs, kernel, None, self.window, groups=self.depthwise_kernel.shape[0])
        return activate_channels_first(self.activation, functional.conv2d(mixed, self.pointwise_kernel, self.bias))
