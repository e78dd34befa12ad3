"""Owns Keras' depthwise convolution; knows no other layer."""

from collections.abc import Sequence
from typing import ClassVar, Unpack

import torch
from torch import nn

from conveyor_exporter import activations, arguments, initializers
from conveyor_exporter.activations import Activation
from conveyor_exporter.arguments import Shape, check_spacing
from conveyor_exporter.initializers import Initializer
from conveyor_exporter.layers.options import LayerOptions
from conveyor_exporter.layers.spatial import WindowLayer, activate_channels_first
from conveyor_exporter.layers.window import Window, convolve


class DepthwiseConv2D(WindowLayer):
    """Convolve each channel with kernels of its own, add a bias, apply an activation.

    Input float32 [batch, height, width, channels], output float32 [batch, new height, new width, channels *
    depth_multiplier]; the outputs of one channel lie side by side.

    Args:
        kernel_size: height and width of a kernel, one integer for both or a pair.
        strides: steps between two places of a kernel, one integer or a pair.
        padding: `valid` or `same`, see `Conv2D`.
        depth_multiplier: number of kernels a channel.
        data_format: `channels_last`, the only one that there is.
        dilation_rate: distance between two cells of a kernel, one integer or a pair.
        activation: a name such as `relu`, a function from a tensor to a tensor, or None.
        use_bias: whether a bias is added.
        depthwise_initializer: `glorot_uniform`, another name, or a function from a shape to a tensor.
        bias_initializer: `zeros`, another name, or a function from a shape to a tensor.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    keras_axes: ClassVar = {"kernel": (2, 3, 0, 1), "bias": (0,)}

    kernel: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        activation: str | Activation | None = None,
        use_bias: bool = True,
        depthwise_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(data_format, options)
        self.kernel_size = arguments.positive_pair(kernel_size, "kernel_size", self.kind)
        self.strides = arguments.positive_pair(strides, "strides", self.kind)
        self.padding = arguments.one_of(padding, ("valid", "same"), "padding", self.kind)
        self.depth_multiplier = arguments.positive_integer(depth_multiplier, "depth_multiplier", self.kind)
        self.dilation_rate = arguments.positive_pair(dilation_rate, "dilation_rate", self.kind)
        check_spacing(self.strides, self.dilation_rate, self.kind)
        self.activation = activations.get(activation, self.kind)
        self.use_bias = arguments.boolean(use_bias, "use_bias", self.kind)
        self.depthwise_initializer = initializers.get(depthwise_initializer, "depthwise_initializer", self.kind)
        self.bias_initializer = initializers.get(bias_initializer, "bias_initializer", self.kind)
        self.window = Window(self.kernel_size, self.strides, self.padding, self.dilation_rate)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return (new height, new width, channels * depth_multiplier) for (height, width, channels)."""
        height, width, channels = self.image_shape(input_shape)
        described = f"kernel_size={self.kernel_size}, dilation_rate={self.dilation_rate}"
        made = activations.channels_after(self.activation, channels * self.depth_multiplier, self.title)
        return (*self.output_sizes(height, width, described), made)

    def create_weights(self, input_shape: Shape) -> None:
        """Create the kernel (height, width, channels, depth_multiplier) and the bias."""
        channels = input_shape[-1]
        activations.warn_if_constant(self.activation, channels * self.depth_multiplier, self.title)
        self.add_weight("kernel", (*self.kernel_size, channels, self.depth_multiplier), self.depthwise_initializer)
        if self.use_bias:
            self.add_weight("bias", (channels * self.depth_multiplier,), self.bias_initializer)
        else:
            self.register_parameter("bias", None)

    def compute_channels_first(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, channels * depth_multiplier, new height, new width]."""
        kernel = self.kernel.flatten(0, 1).unsqueeze(1)
        outputs = convolve(inputs, kernel, self.bias, self.window, groups=self.kernel.shape[0])
        return activate_channels_first(self.activation, outputs)
