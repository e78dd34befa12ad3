"""Owns the optimisers: Keras' arguments and update rules on top of torch's; knows no model."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast, overload

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
        amsgrad: whether a step is divided by the largest mean of squared gradients so far (Reddi et al., 2018).
        weight_decay: share of each weight, times the learning rate, that a step takes away; None for none.
    """

    learning_rate: float = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    amsgrad: bool = False
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        _check_positive("learning_rate", self.learning_rate)
        _check_positive("epsilon", self.epsilon)
        _check_share("beta_1", self.beta_1)
        _check_share("beta_2", self.beta_2)
        _check_switch("amsgrad", self.amsgrad)
        if self.weight_decay is not None:
            _check_positive("weight_decay", self.weight_decay)

    def bind(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a fresh torch optimiser for these weights."""
        return _KerasAdam(parameters, self)


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
        _check_share("momentum", self.momentum)
        _check_switch("nesterov", self.nesterov)

    def bind(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a fresh torch optimiser for these weights."""
        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=self.momentum, nesterov=nesterov)


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Hinton, 2012) with Keras' defaults, and Keras' place for epsilon: inside the root.

    Attributes:
        learning_rate: step size.
        rho: decay of the mean of squared gradients.
        momentum: share of the step before that is taken again.
        epsilon: what is added to the mean of squared gradients.
        centered: whether the variance of the gradients takes the place of their mean square.
    """

    learning_rate: float = 0.001
    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7
    centered: bool = False

    def __post_init__(self) -> None:
        _check_positive("learning_rate", self.learning_rate)
        _check_positive("epsilon", self.epsilon)
        _check_share("rho", self.rho)
        _check_share("momentum", self.momentum)
        _check_switch("centered", self.centered)

    def bind(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a fresh torch optimiser for these weights."""
        return _KerasRMSprop(parameters, self)


class _KerasAdam(torch.optim.Adam):
    """Torch's Adam with Keras' update: w -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon).

    Torch adds its eps after dividing sqrt(v) by sqrt(1 - b2^t), so an eps of epsilon / sqrt(1 - b2^t), set anew before
    each step, makes the two the same.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: Adam) -> None:
        super().__init__(
            parameters,
            lr=recipe.learning_rate,
            betas=(recipe.beta_1, recipe.beta_2),
            eps=recipe.epsilon,
            amsgrad=recipe.amsgrad,
            weight_decay=recipe.weight_decay or 0.0,
            decoupled_weight_decay=True,  # as Keras: it does not pass through the means of the gradients
        )
        for group in self.param_groups:
            group["epsilon"], group["steps"] = recipe.epsilon, 0

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["steps"] += 1
            group["eps"] = group["epsilon"] / math.sqrt(1 - group["betas"][1] ** group["steps"])
        return super().step(closure)


class _KerasRMSprop(torch.optim.Optimizer):
    """Keras' update: v = rho v + (1 - rho) g²; w -= learning rate * g / sqrt(v + epsilon), or a momentum of that.

    Torch adds epsilon outside the root, and multiplies a momentum by the newest learning rate; hence an own loop.
    """

    _MEANS = ("velocity", "average_gradient", "momentum")

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: RMSprop) -> None:
        super().__init__(parameters, asdict(recipe))

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter -= self._move(group, parameter)
        return loss

    def _move(self, group: dict[str, Any], parameter: nn.Parameter) -> torch.Tensor:
        gradient, state = cast(torch.Tensor, parameter.grad), self.state[parameter]
        for name in self._MEANS:
            state.setdefault(name, torch.zeros_like(parameter))
        velocity, average, momentum = (cast(torch.Tensor, state[name]) for name in self._MEANS)
        variance = velocity.lerp_(gradient.square(), 1 - group["rho"])
        if group["centered"]:
            variance = variance - average.lerp_(gradient, 1 - group["rho"]).square()
        move = group["learning_rate"] * gradient / (variance + group["epsilon"]).sqrt()
        return momentum.mul_(group["momentum"]).add_(move)


NAMED: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "rmsprop": RMSprop, "sgd": SGD}


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


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidArgument(f"`{name}` must be a number above 0, got {value!r}.")


def _check_share(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InvalidArgument(f"`{name}` must be a number from 0 to below 1, got {value!r}.")


def _check_switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidArgument(f"`{name}` must be True or False, got {value!r}.")
