"""Owns the activation functions, by Keras' names and with Keras' constants; knows no layer."""

from collections.abc import Callable

import torch
from torch.nn import functional

from conveyor_exporter.arguments import did_you_mean
from conveyor_exporter.errors import InvalidArgument

Activation = Callable[[torch.Tensor], torch.Tensor]
"""Takes and returns a tensor of one shape; the last axis holds the channels."""


def linear(x: torch.Tensor) -> torch.Tensor:
    """Return `x` itself."""
    return x


def relu(x: torch.Tensor) -> torch.Tensor:
    """Return max(x, 0)."""
    return torch.relu(x)


def relu6(x: torch.Tensor) -> torch.Tensor:
    """Return min(max(x, 0), 6)."""
    return functional.relu6(x)


def leaky_relu(x: torch.Tensor) -> torch.Tensor:
    """Return x, or 0.2 x below zero. Keras' slope by this name is 0.2; torch's default is 0.01."""
    return functional.leaky_relu(x, 0.2)


def elu(x: torch.Tensor) -> torch.Tensor:
    """Return x, or exp(x) - 1 below zero."""
    return functional.elu(x)


def selu(x: torch.Tensor) -> torch.Tensor:
    """Return the scaled exponential linear unit (Klambauer et al., 2017)."""
    return functional.selu(x)


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Return x times the normal distribution function of x: the exact form, not the tanh approximation."""
    return functional.gelu(x)


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Return 1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


def hard_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Return x / 6 + 0.5, clipped to [0, 1]. Keras' slope is 1/6; that of ONNX by default 0.2."""
    return functional.hardsigmoid(x)


def silu(x: torch.Tensor) -> torch.Tensor:
    """Return x times sigmoid(x), also called swish."""
    return functional.silu(x)


def softplus(x: torch.Tensor) -> torch.Tensor:
    """Return log(1 + exp(x))."""
    return functional.softplus(x)


def softsign(x: torch.Tensor) -> torch.Tensor:
    """Return x / (1 + |x|)."""
    return functional.softsign(x)


def tanh(x: torch.Tensor) -> torch.Tensor:
    """Return the hyperbolic tangent."""
    return torch.tanh(x)


def exponential(x: torch.Tensor) -> torch.Tensor:
    """Return exp(x)."""
    return torch.exp(x)


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Return exp(x) divided by its sum over the last axis."""
    return torch.softmax(x, dim=-1)


ELEMENTWISE: dict[str, Activation] = {
    function.__name__: function
    for function in (
        *(linear, relu, relu6, leaky_relu, elu, selu, gelu, sigmoid, hard_sigmoid),
        *(silu, softplus, softsign, tanh, exponential),
    )
}
NAMED: dict[str, Activation] = {**ELEMENTWISE, "softmax": softmax, "swish": silu}


def get(identifier: str | Activation | None, owner: str) -> Activation:
    """Return the activation that a name, a callable or `None` (linear) stands for.

    Raises:
        InvalidArgument: the name is unknown, or it is neither a name nor a callable.
    """
    if identifier is None:
        return linear
    if callable(identifier):
        return identifier
    if isinstance(identifier, str) and identifier.lower() in NAMED:
        return NAMED[identifier.lower()]
    raise InvalidArgument(
        f"{owner}: `activation` must be None, a function from a tensor to a tensor, or one of "
        f"{', '.join(sorted(NAMED))}; got {identifier!r}.{did_you_mean(str(identifier), NAMED)}"
    )


def is_elementwise(activation: Activation) -> bool:
    """Tell whether the order of the axes is known not to matter; of a user's own function it is not known."""
    return activation in ELEMENTWISE.values()
