"""Owns the first values of weights, with Keras' formulas, in Keras' axis order; knows no layer."""

import math
from collections.abc import Callable

import torch
from torch import nn

from conveyor_exporter.arguments import Shape, did_you_mean
from conveyor_exporter.errors import InvalidArgument

Initializer = Callable[[Shape], torch.Tensor]
"""Takes a shape in Keras' axis order (convolution kernel: height, width, in, out); returns float32 values."""

TRUNCATED_DEVIATION = 0.87962566103423978
"""Deviation of a normal distribution of deviation 1 after the cut at -2 and 2."""


def fans(shape: Shape) -> tuple[int, int]:
    """Return (fan in, fan out) of a kernel: the last two axes, each times the receptive field before them."""
    if len(shape) < 2:
        return shape[0], shape[0]
    receptive_field = math.prod(shape[:-2])
    return receptive_field * shape[-2], receptive_field * shape[-1]


def glorot_uniform(shape: Shape) -> torch.Tensor:
    """Draw from U(-l, l) with l = sqrt(6 / (fan in + fan out)) (Glorot and Bengio, 2010)."""
    return _uniform(shape, math.sqrt(6 / sum(fans(shape))))


def glorot_normal(shape: Shape) -> torch.Tensor:
    """Draw from a truncated normal distribution of variance 2 / (fan in + fan out) (Glorot and Bengio, 2010)."""
    return _truncated_normal(shape, math.sqrt(2 / sum(fans(shape))) / TRUNCATED_DEVIATION)


def he_uniform(shape: Shape) -> torch.Tensor:
    """Draw from U(-l, l) with l = sqrt(6 / fan in) (He et al., 2015)."""
    return _uniform(shape, math.sqrt(6 / fans(shape)[0]))


def he_normal(shape: Shape) -> torch.Tensor:
    """Draw from a truncated normal distribution of variance 2 / fan in (He et al., 2015)."""
    return _truncated_normal(shape, math.sqrt(2 / fans(shape)[0]) / TRUNCATED_DEVIATION)


def lecun_uniform(shape: Shape) -> torch.Tensor:
    """Draw from U(-l, l) with l = sqrt(3 / fan in) (LeCun et al., 1998)."""
    return _uniform(shape, math.sqrt(3 / fans(shape)[0]))


def lecun_normal(shape: Shape) -> torch.Tensor:
    """Draw from a truncated normal distribution of variance 1 / fan in (LeCun et al., 1998)."""
    return _truncated_normal(shape, math.sqrt(1 / fans(shape)[0]) / TRUNCATED_DEVIATION)


def random_uniform(shape: Shape) -> torch.Tensor:
    """Draw from U(-0.05, 0.05)."""
    return _uniform(shape, 0.05)


def random_normal(shape: Shape) -> torch.Tensor:
    """Draw from a normal distribution of deviation 0.05."""
    return torch.empty(shape).normal_(0, 0.05)


def truncated_normal(shape: Shape) -> torch.Tensor:
    """Draw from a normal distribution of deviation 0.05, drawing anew what lies beyond two deviations."""
    return _truncated_normal(shape, 0.05)


def zeros(shape: Shape) -> torch.Tensor:
    """Fill with 0."""
    return torch.zeros(shape)


def ones(shape: Shape) -> torch.Tensor:
    """Fill with 1."""
    return torch.ones(shape)


NAMED: dict[str, Initializer] = {
    function.__name__: function
    for function in (
        *(glorot_uniform, glorot_normal, he_uniform, he_normal, lecun_uniform, lecun_normal),
        *(random_uniform, random_normal, truncated_normal, zeros, ones),
    )
}


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


def _uniform(shape: Shape, limit: float) -> torch.Tensor:
    return torch.empty(shape).uniform_(-limit, limit)


def _truncated_normal(shape: Shape, deviation: float) -> torch.Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), 0, deviation, -2 * deviation, 2 * deviation)
