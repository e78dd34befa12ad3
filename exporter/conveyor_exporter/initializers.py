"""Owns the first values of weights, with Keras' formulas, in Keras' axis order; knows no layer."""

import math
from collections.abc import Callable

import torch

from conveyor_exporter.arguments import Shape, did_you_mean
from conveyor_exporter.errors import InvalidArgument

Initializer = Callable[[Shape], torch.Tensor]
"""Takes a shape in Keras' axis order (convolution kernel: height, width, in, out); returns float32 values."""


def fans(shape: Shape) -> tuple[int, int]:
    """Return (fan in, fan out) of a kernel: the last two axes, each times the receptive field before them."""
    if len(shape) < 2:
        return shape[0], shape[0]
    receptive_field = math.prod(shape[:-2])
    return receptive_field * shape[-2], receptive_field * shape[-1]


def glorot_uniform(shape: Shape) -> torch.Tensor:
    """Draw from U(-l, l) with l = sqrt(6 / (fan in + fan out)) (Glorot and Bengio, 2010)."""
    fan_in, fan_out = fans(shape)
    limit = math.sqrt(6 / (fan_in + fan_out))
    return torch.empty(shape).uniform_(-limit, limit)


def zeros(shape: Shape) -> torch.Tensor:
    """Fill with 0."""
    return torch.zeros(shape)


def ones(shape: Shape) -> torch.Tensor:
    """Fill with 1."""
    return torch.ones(shape)


NAMED: dict[str, Initializer] = {"glorot_uniform": glorot_uniform, "zeros": zeros, "ones": ones}


def get(identifier: str | Initializer, argument: str, owner: str) -> Initializer:
    """Return the initialiser that a name or a callable stands for.

    Raises:
        InvalidArgument: the name is unknown, or it is neither a name nor a callable.
    """
    if callable(identifier):
        return identifier
    if isinstance(identifier, str) and identifier.lower() in NAMED:
        return NAMED[identifier.lower()]
    raise InvalidArgument(
        f"{owner}: `{argument}` must be one of {', '.join(NAMED)}, or a function from a shape to a tensor; "
        f"got {identifier!r}.{did_you_mean(str(identifier), NAMED)}"
    )
