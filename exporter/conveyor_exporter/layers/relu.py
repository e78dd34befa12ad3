"""Owns Keras' rectifier with its three bends; knows no other layer."""

from typing import Unpack

import torch
from torch.nn import functional

from conveyor_exporter import arguments
from conveyor_exporter.arguments import Shape
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.options import LayerOptions


class ReLU(Layer):
    """Return x above `threshold`, at most `max_value`; below it, `negative_slope` * (x - threshold).

    Float32 [batch, ...] to float32 [batch, ...].

    Args:
        max_value: the largest output, at least 0, or None for no limit.
        negative_slope: the slope below the threshold, at least 0.
        threshold: where x starts to pass, at least 0.
        options: `name`, `input_shape` and `trainable`, see `Layer`.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(options)
        self.max_value = None
        if max_value is not None:
            self.max_value = arguments.number(max_value, "max_value", self.kind, at_least=0)
        self.negative_slope = arguments.number(negative_slope, "negative_slope", self.kind, at_least=0)
        self.threshold = arguments.number(threshold, "threshold", self.kind, at_least=0)

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the shape as it is."""
        return input_shape

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, ...] for float32 [batch, ...]."""
        if self.max_value is None and not self.threshold:
            return functional.leaky_relu(inputs, self.negative_slope) if self.negative_slope else torch.relu(inputs)
        outputs = torch.where(inputs > self.threshold, inputs, 0.0) if self.threshold else inputs
        outputs = torch.relu(outputs) if self.max_value is None else functional.hardtanh(outputs, 0.0, self.max_value)
        if self.negative_slope:
            outputs = outputs - self.negative_slope * torch.relu(self.threshold - inputs)
        return outputs
