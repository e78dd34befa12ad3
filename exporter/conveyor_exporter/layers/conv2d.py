"""Owns Keras' two-dimensional convolution; knows no other layer."""

from collections.abc import Sequence
from typing import ClassVar, Unpack

import torch
from torch import nn

from conveyor_exporter import activations, arguments, initializers
from conveyor_exporter.activations import Activation
from conveyor_exporter.arguments import Shape, check_spacing
from conveyor_exporter.errors import InvalidArgument, InvalidInput
from conveyor_exporter.initializers import Initializer
from conveyor_exporter.layers.options import LayerOptions
from conveyor_exporter.layers.spatial import WindowLayer, activate_channels_first
from conveyor_exporter.layers.window import Window, convolve


class Conv2D(WindowLayer):
    """Slide `filters` small kernels over an image (cross-correlation, no flip), add a bias, apply an activation.

    Input float32 [batch, height, width, channels], output float32 [batch, new height, new width, filters]. The
    arguments mean what they mean in Keras 3.

    Args:
        filters: number of kernels, which is the number of output channels.
        kernel_size: height and width of a kernel, one integer for both or a pair.
        strides: steps between two places of a kernel, one integer or a pair.
        padding: `valid` (the kernel stays inside the image) or `same` (zeros around it, so that the output has
            ceil(size / stride) cells an axis; what cannot be halved goes to the bottom and the right).
        data_format: `channels_last`, the only one that there is.
        dilation_rate: distance between two cells of a kernel, one integer or a pair.
        groups: number of groups that the channels are split into, each convolved on its own.
        activation: a name such as `relu`, a function from a tensor to a tensor, or None.
        use_bias: whether a bias is added.
        kernel_initializer: `glorot_uniform`, another name, or a function from a shape to a tensor.
        bias_initializer: `zeros`, another name, or a function from a shape to a tensor.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    keras_axes: ClassVar = {"kernel": (2, 3, 1, 0), "bias": (0,)}

    kernel: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        groups: int = 1,
        activation: str | Activation | None = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(data_format, options)
        self.filters = arguments.positive_integer(filters, "filters", self.kind)
        self.kernel_size = arguments.positive_pair(kernel_size, "kernel_size", self.kind)
        self.strides = arguments.positive_pair(strides, "strides", self.kind)
        self.padding = arguments.one_of(padding, ("valid", "same"), "padding", self.kind)
        self.dilation_rate = arguments.positive_pair(dilation_rate, "dilation_rate", self.kind)
        self.groups = arguments.positive_integer(groups, "groups", self.kind)
        self.activation = activations.get(activation, self.kind)
        self.use_bias = arguments.boolean(use_bias, "use_bias", self.kind)
        self.kernel_initializer = initializers.get(kernel_initializer, "kernel_initializer", self.kind)
        self.bias_initializer = initializers.get(bias_initializer, "bias_initializer", self.kind)
        check_spacing(self.strides, self.dilation_rate, self.kind)
        if self.filters % self.groups:
            raise InvalidArgument(f"{self.kind}: filters={self.filters} cannot be split into groups={self.groups}.")
        self.window = Window(self.kernel_size, self.strides, self.padding, self.dilation_rate)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return (new height, new width, filters) for (height, width, channels)."""
        height, width, channels = self.image_shape(input_shape)
        if channels % self.groups:
            raise InvalidInput(f"{self.title}: {channels} input channels cannot be split into groups={self.groups}.")
        described = f"kernel_size={self.kernel_size}, dilation_rate={self.dilation_rate}"
        filters = activations.channels_after(self.activation, self.filters, self.title)
        return (*self.output_sizes(height, width, described), filters)

    def create_weights(self, input_shape: Shape) -> None:
        """Create the kernel (height, width, channels / groups, filters) and the bias (filters,)."""
        activations.warn_if_constant(self.activation, self.filters, self.title)
        self.add_weight(
            "kernel", (*self.kernel_size, input_shape[-1] // self.groups, self.filters), self.kernel_initializer
        )
        if self.use_bias:
            self.add_weight("bias", (self.filters,), self.bias_initializer)
        else:
            self.register_parameter("bias", None)

    def compute_channels_first(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, filters, new height, new width] for [batch, channels, height, width]."""
        outputs = convolve(inputs, self.kernel, self.bias, self.window, self.groups)
        return activate_channels_first(self.activation, outputs)
