"""Owns Keras' fully connected layer; knows no other layer."""

from typing import ClassVar, Unpack

import torch
from torch import nn
from torch.nn import functional

from conveyor_exporter import activations, arguments, initializers
from conveyor_exporter.activations import Activation
from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidInput
from conveyor_exporter.initializers import Initializer
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.options import LayerOptions


class Dense(Layer):
    """Multiply the last axis by a matrix, add a bias, apply an activation.

    Input float32 [batch, ..., features], output float32 [batch, ..., units].

    Args:
        units: number of outputs.
        activation: a name such as `sigmoid`, a function from a tensor to a tensor, or None.
        use_bias: whether a bias is added.
        kernel_initializer: `glorot_uniform`, another name, or a function from a shape to a tensor.
        bias_initializer: `zeros`, another name, or a function from a shape to a tensor.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    keras_axes: ClassVar = {"kernel": (1, 0), "bias": (0,)}

    kernel: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        units: int,
        activation: str | Activation | None = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(options)
        self.units = arguments.positive_integer(units, "units", self.kind)
        self.activation = activations.get(activation, self.kind)
        self.use_bias = arguments.boolean(use_bias, "use_bias", self.kind)
        self.kernel_initializer = initializers.get(kernel_initializer, "kernel_initializer", self.kind)
        self.bias_initializer = initializers.get(bias_initializer, "bias_initializer", self.kind)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return (..., units) for (..., features)."""
        if not input_shape:
            raise InvalidInput(
                f"{self.title} expects inputs of shape [batch, ..., features]. Add the batch axis: x[None]."
            )
        return (*input_shape[:-1], activations.channels_after(self.activation, self.units, self.title))

    def create_weights(self, input_shape: Shape) -> None:
        """Create the kernel (features, units) and the bias (units,)."""
        activations.warn_if_constant(self.activation, self.units, self.title)
        self.add_weight("kernel", (input_shape[-1], self.units), self.kernel_initializer)
        if self.use_bias:
            self.add_weight("bias", (self.units,), self.bias_initializer)
        else:
            self.register_parameter("bias", None)

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, ..., units] for [batch, ..., features]."""
        return self.activation(functional.linear(inputs, self.kernel, self.bias))
