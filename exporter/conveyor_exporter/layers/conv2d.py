"""Owns Keras' two-dimensional convolution; knows no other layer."""

from collections.abc import Sequence
from typing import ClassVar, Unpack

import torch
from torch import nn
from torch.nn import functional

from conveyor_exporter import activations, arguments, initializers
from conveyor_exporter.activations import Activation
from conveyor_exporter.arguments import Pair, Shape
from conveyor_exporter.errors import InvalidArgument, InvalidInput
from conveyor_exporter.initializers import Initializer
from conveyor_exporter.layers.base import LayerOptions
from conveyor_exporter.layers.spatial import SpatialLayer, activate_channels_first


class Conv2D(SpatialLayer):
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
        options: `name` and `input_shape`, see `Layer`.

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
        self._check_combinations()

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return (new height, new width, filters) for (height, width, channels)."""
        height, width, channels = self.image_shape(input_shape)
        if channels % self.groups:
            raise InvalidInput(f"{self.title}: {channels} input channels cannot be split into groups={self.groups}.")
        sizes = [self._output_size(size, axis) for axis, size in enumerate((height, width))]
        if min(sizes) < 1:
            raise InvalidInput(
                f"{self.title}: a kernel of {self._extent(0)}x{self._extent(1)} pixels (kernel_size="
                f"{self.kernel_size}, dilation_rate={self.dilation_rate}) does not fit into an image of "
                f"{height}x{width}. Use a smaller kernel, or padding='same'."
            )
        return (*sizes, self.filters)

    def create_weights(self, input_shape: Shape) -> None:
        """Create the kernel (height, width, channels / groups, filters) and the bias (filters,)."""
        self.add_weight(
            "kernel", (*self.kernel_size, input_shape[-1] // self.groups, self.filters), self.kernel_initializer
        )
        if self.use_bias:
            self.add_weight("bias", (self.filters,), self.bias_initializer)
        else:
            self.register_parameter("bias", None)

    def compute_channels_first(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, filters, new height, new width] for [batch, channels, height, width]."""
        (top, bottom), (left, right) = (self._padding(int(inputs.shape[2 + axis]), axis) for axis in (0, 1))
        padding: Pair = (top, left)
        if (top, left) != (bottom, right):  # torch's own padding is the same on both sides
            inputs, padding = functional.pad(inputs, (left, right, top, bottom)), (0, 0)
        outputs = functional.conv2d(
            inputs, self.kernel, self.bias, self.strides, padding, self.dilation_rate, self.groups
        )
        return activate_channels_first(self.activation, outputs)

    def _check_combinations(self) -> None:
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise InvalidArgument(
                f"{self.kind}: strides={self.strides} and dilation_rate={self.dilation_rate} cannot both be above 1."
            )
        if self.filters % self.groups:
            raise InvalidArgument(f"{self.kind}: filters={self.filters} cannot be split into groups={self.groups}.")

    def _extent(self, axis: int) -> int:
        """Return how many pixels a kernel reaches over: (kernel_size - 1) * dilation_rate + 1."""
        return (self.kernel_size[axis] - 1) * self.dilation_rate[axis] + 1

    def _output_size(self, size: int, axis: int) -> int:
        if self.padding == "same":
            return -(-size // self.strides[axis])
        return (size - self._extent(axis)) // self.strides[axis] + 1

    def _padding(self, size: int, axis: int) -> Pair:
        """Return the zeros (before, after) an axis of `size` pixels; Keras gives the odd one to the end."""
        if self.padding == "valid":
            return 0, 0
        total = max(0, (self._output_size(size, axis) - 1) * self.strides[axis] + self._extent(axis) - size)
        return total // 2, total - total // 2
