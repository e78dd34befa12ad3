"""Owns Keras' dropout; knows no other layer."""

from typing import Unpack

import torch
from torch.nn import functional

from conveyor_exporter import arguments
from conveyor_exporter.arguments import Shape, is_integer
from conveyor_exporter.errors import InvalidArgument, InvalidArgumentType
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.options import LayerOptions


class Dropout(Layer):
    """In training, set a part of the values to 0 and divide the others by what is left; otherwise, change nothing.

    Float32 [batch, ...] to float32 [batch, ...]. The exported graph has no dropout.

    Args:
        rate: the part that is set to 0, from 0 to 1.
        noise_shape: None; Keras' other values are not supported.
        seed: with a seed the layer draws the same masks in each new training, whatever else draws random numbers;
            without one it draws from torch's generator.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    draws: torch.Tensor

    def __init__(
        self, rate: float, noise_shape: None = None, seed: int | None = None, **options: Unpack[LayerOptions]
    ) -> None:
        super().__init__(options)
        self.rate = arguments.number(rate, "rate", self.kind, at_least=0, at_most=1)
        if noise_shape is not None:
            raise InvalidArgument(f"{self.kind}: `noise_shape` is not supported here; leave it out.")
        if seed is not None and not is_integer(seed):
            raise InvalidArgumentType(f"{self.kind}: `seed` must be an integer or None, got {seed!r}.")
        self.seed = None if seed is None else int(seed)
        if self.seed is not None:
            # In the module's state, so that a training that goes on from a checkpoint draws what it would have drawn.
            self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the shape as it is."""
        return input_shape

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, ...] for float32 [batch, ...]."""
        if not self.training or self.rate == 0:
            return inputs
        if self.seed is None or self.rate == 1:
            return functional.dropout(inputs, self.rate)
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + int(self.draws)) % 2**63)
        self.draws += 1
        kept = torch.rand(inputs.shape, generator=generator) >= self.rate
        return inputs * kept.to(inputs.device, inputs.dtype) / (1 - self.rate)
