"""Owns the activation functions, by Keras' names and with Keras' constants; knows no layer."""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from conveyor_exporter.arguments import did_you_mean
from conveyor_exporter.errors import InvalidArgument, InvalidInput

Activation = Callable[[torch.Tensor], torch.Tensor]
"""Takes a tensor whose last axis holds the channels, and returns one of that shape; `glu` alone halves the channels."""


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


def hard_sigmoid_of_keras_2(x: torch.Tensor) -> torch.Tensor:
    """Return 0.2 x + 0.5, clipped to [0, 1], which Keras called hard_sigmoid up to version 2."""
    return functional.hardtanh(0.2 * x + 0.5, 0.0, 1.0)


def silu(x: torch.Tensor) -> torch.Tensor:
    """Return x times sigmoid(x), also called swish."""
    return functional.silu(x)


def hard_silu(x: torch.Tensor) -> torch.Tensor:
    """Return x times hard_sigmoid(x), also called hard_swish."""
    return functional.hardswish(x)


def mish(x: torch.Tensor) -> torch.Tensor:
    """Return x times tanh(softplus(x)) (Misra, 2019)."""
    return functional.mish(x)


def celu(x: torch.Tensor) -> torch.Tensor:
    """Return max(x, 0) + min(exp(x) - 1, 0), which is elu, at Keras' alpha of 1."""
    return functional.celu(x)


def log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Return log(sigmoid(x)), as -softplus(-x), which does not underflow."""
    return -functional.softplus(-x)


def hard_tanh(x: torch.Tensor) -> torch.Tensor:
    """Return x, clipped to [-1, 1]."""
    return functional.hardtanh(x)


def tanh_shrink(x: torch.Tensor) -> torch.Tensor:
    """Return x - tanh(x)."""
    return x - torch.tanh(x)


def hard_shrink(x: torch.Tensor) -> torch.Tensor:
    """Return x, or 0 where |x| is at most 0.5."""
    return functional.hardshrink(x, 0.5)


def soft_shrink(x: torch.Tensor) -> torch.Tensor:
    """Return x moved towards 0 by 0.5, and 0 where |x| is at most 0.5."""
    return functional.softshrink(x, 0.5)


def squareplus(x: torch.Tensor) -> torch.Tensor:
    """Return (x + sqrt(x² + 4)) / 2 (Barron, 2021)."""
    return (x + torch.sqrt(x * x + 4)) / 2


def sparse_plus(x: torch.Tensor) -> torch.Tensor:
    """Return 0 up to -1, (x + 1)² / 4 up to 1, and x from there on."""
    return torch.where(x < 1, (torch.clamp(x, -1, 1) + 1) ** 2 / 4, x)


def sparse_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Return (x + 1) / 2, clipped to [0, 1]."""
    return functional.hardtanh((x + 1) / 2, 0.0, 1.0)


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


def softmax(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """Return exp(x) divided by its sum over an axis."""
    return torch.softmax(x, dim=axis)


def log_softmax(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """Return the logarithm of softmax, without its overflow."""
    return torch.log_softmax(x, dim=axis)


def sparsemax(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """Return the closest point to x whose values along an axis are at least 0 and add up to 1.

    That is max(x - t, 0), where t is the largest of (sum of the j largest values - 1) / j over all j (Martins and
    Astudillo, 2016). Keras up to 3.15.1 computes another t, and values that do not add up to 1 (keras issue 23425).
    """
    largest = torch.sort(x, dim=axis, descending=True).values
    shape = [1] * x.ndim
    shape[axis] = -1
    numbers = torch.arange(1, x.shape[axis] + 1, dtype=x.dtype, device=x.device).reshape(shape)
    return torch.relu(x - ((largest.cumsum(axis) - 1) / numbers).amax(axis, keepdim=True))


def glu(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """Return the first half of an axis times the sigmoid of the second half (Dauphin et al., 2017)."""
    return functional.glu(x, axis)


ELEMENTWISE: dict[str, Activation] = {
    function.__name__: function
    for function in (
        *(linear, relu, relu6, leaky_relu, elu, celu, selu, gelu, silu, hard_silu, mish),
        *(sigmoid, hard_sigmoid, log_sigmoid, sparse_sigmoid, tanh, hard_tanh, tanh_shrink),
        *(softplus, softsign, sparse_plus, squareplus, exponential, hard_shrink, soft_shrink),
    )
}
OVER_AN_AXIS = (softmax, log_softmax, sparsemax, glu)
NAMED: dict[str, Activation] = {
    **ELEMENTWISE,
    **{function.__name__: function for function in OVER_AN_AXIS},
    "swish": silu,
    "hard_swish": hard_silu,
}
NOT_BY_NAME = {
    "threshold": "`threshold` cannot be called by its name alone, in Keras either: it needs a threshold and a value. "
    "Give a function, or use the layer ReLU(threshold=...).",
}
"""Names that Keras knows and that cannot stand for an activation of a layer, with the reason."""


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
    if isinstance(identifier, str) and identifier.lower() in NOT_BY_NAME:
        raise InvalidArgument(f"{owner}: {NOT_BY_NAME[identifier.lower()]}")
    raise InvalidArgument(
        f"{owner}: `activation` must be None, a function from a tensor to a tensor, or one of "
        f"{', '.join(sorted(NAMED))}; got {identifier!r}.{did_you_mean(str(identifier), NAMED)}"
    )


def is_elementwise(activation: Activation) -> bool:
    """Tell whether the order of the axes is known not to matter; of a user's own function it is not known."""
    return activation in ELEMENTWISE.values() or activation is hard_sigmoid_of_keras_2


def channels_after(activation: Activation, channels: int, owner: str) -> int:
    """Return how many channels an activation gives for so many.

    Raises:
        InvalidInput: it cannot take so many.
    """
    if activation is not glu:
        return channels
    if channels % 2:
        raise InvalidInput(f"{owner}: `glu` halves the channels, and {channels} cannot be halved.")
    return channels // 2


def over_axis(activation: Activation, axis: int) -> Activation | None:
    """Return an activation that goes over the last axis, such as softmax, going over another; None for any other."""
    return next((partial(function, axis=axis) for function in OVER_AN_AXIS if function is activation), None)


def warn_if_constant(activation: Activation, size: int, owner: str) -> None:
    """Warn of a softmax over an axis of size 1: whatever goes in, 1 comes out."""
    if activation is softmax and size == 1:
        warnings.warn(f"{owner}: softmax over an axis of size 1 always gives 1; did you mean 'sigmoid'?", stacklevel=2)
