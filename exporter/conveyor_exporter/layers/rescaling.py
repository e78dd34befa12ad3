"""Owns Keras' change of an input's range; knows no other layer."""

from collections.abc import Sequence
from typing import Unpack

import torch

from conveyor_exporter import arguments
from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidArgument, InvalidInput
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.options import LayerOptions


class Rescaling(Layer):
    """Return x * scale + offset: float32 [batch, ...] to float32 [batch, ...].

    Args:
        scale: a number, or one for each channel, such as 1 / 255.
        offset: a number, or one for each channel.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    def __init__(
        self,
        scale: float | Sequence[float],
        offset: float | Sequence[float] = 0.0,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(options)
        self.scale = self._numbers(scale, "scale")
        self.offset = self._numbers(offset, "offset")

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the shape as it is."""
        for argument, numbers in (("scale", self.scale), ("offset", self.offset)):
            if len(numbers) not in (1, input_shape[-1]):
                raise InvalidInput(
                    f"{self.title}: `{argument}` has {len(numbers)} numbers, but the inputs have {input_shape[-1]} "
                    "channels."
                )
        return input_shape

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, ...] for float32 [batch, ...]."""
        if any(factor != 1 for factor in self.scale):
            inputs = inputs * self._operand(self.scale, inputs)
        if any(self.offset):
            inputs = inputs + self._operand(self.offset, inputs)
        return inputs

    @staticmethod
    def _operand(numbers: tuple[float, ...], inputs: torch.Tensor) -> torch.Tensor | float:
        """Return one number as it is, so that float64 inputs meet it unrounded, and several as a tensor."""
        return numbers[0] if len(numbers) == 1 else inputs.new_tensor(numbers)

    def _numbers(self, value: object, argument: str) -> tuple[float, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return (arguments.number(value, argument, self.kind),)
        if not value:
            raise InvalidArgument(f"{self.kind}: `{argument}` must be a number or one for each channel, got {value!r}.")
        return tuple(arguments.number(number, argument, self.kind) for number in value)
