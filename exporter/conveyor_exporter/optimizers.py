"""Owns the optimisers: Keras' arguments and update rules on top of torch's; knows no model."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, overload

import torch
from torch import nn

from conveyor_exporter.arguments import did_you_mean
from conveyor_exporter.errors import InvalidArgument


class Optimizer(Protocol):
    """What `compile` takes: a recipe that makes torch's optimiser once the weights exist."""

    def bind(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a fresh torch optimiser for these weights."""
        ...


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2015) with Keras' defaults, and Keras' place for epsilon.

    Attributes:
        learning_rate: step size.
        beta_1: decay of the mean of gradients.
        beta_2: decay of the mean of squared gradients.
        epsilon: the `epsilon hat` of the paper's section 2.
    """

    learning_rate: float = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        _check_positive("learning_rate", self.learning_rate)

    def bind(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a fresh torch optimiser for these weights."""
        return _KerasAdam(parameters, self.learning_rate, (self.beta_1, self.beta_2), self.epsilon)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with Keras' defaults.

    Attributes:
        learning_rate: step size.
        momentum: share of the step before that is taken again.
        nesterov: whether the momentum looks ahead.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_positive("learning_rate", self.learning_rate)

    def bind(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a fresh torch optimiser for these weights."""
        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=self.momentum, nesterov=nesterov)


class _KerasAdam(torch.optim.Adam):
    """Torch's Adam with Keras' update: w -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon).

    Torch adds its eps after dividing sqrt(v) by sqrt(1 - b2^t), so an eps of epsilon / sqrt(1 - b2^t), set anew before
    each step, makes the two the same.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, betas: tuple[float, float], epsilon: float
    ) -> None:
        super().__init__(parameters, lr=learning_rate, betas=betas, eps=epsilon)
        for group in self.param_groups:
            group["epsilon"], group["steps"] = epsilon, 0

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["steps"] += 1
            group["eps"] = group["epsilon"] / math.sqrt(1 - group["betas"][1] ** group["steps"])
        return super().step(closure)


NAMED: dict[str, Callable[[], Optimizer]] = {"adam": Adam, "sgd": SGD}


def get(identifier: str | Optimizer) -> Optimizer:
    """Return the optimiser that a name stands for, or the one given.

    Raises:
        InvalidArgument: the name is unknown, or it is no optimiser.
    """
    if isinstance(identifier, str):
        if identifier.lower() in NAMED:
            return NAMED[identifier.lower()]()
    elif hasattr(identifier, "bind") and not isinstance(identifier, type):
        return identifier
    raise InvalidArgument(
        f"compile: `optimizer` must be one of {', '.join(NAMED)} or an object such as Adam(learning_rate=0.001); "
        f"got {identifier!r}.{did_you_mean(str(identifier), NAMED)}"
    )


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise InvalidArgument(f"`{name}` must be above 0, got {value!r}.")
