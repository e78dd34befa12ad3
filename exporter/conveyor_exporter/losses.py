"""Owns the loss functions, with Keras' formulas on probabilities; knows no model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from conveyor_exporter.arguments import did_you_mean
from conveyor_exporter.errors import InvalidArgument, InvalidInput

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes true values and predictions [batch, units], float32; returns the mean loss, a scalar."""

EPSILON = 1e-7  # keras.config.epsilon(): probabilities are kept this far from 0 and 1


def align_labels(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return labels in the shape of the predictions: [batch] fits [batch, 1].

    Raises:
        InvalidInput: the shapes cannot be brought together.
    """
    if y_true.ndim == y_pred.ndim - 1 and y_pred.shape[-1] == 1:
        y_true = y_true.unsqueeze(-1)
    if y_true.shape != y_pred.shape:
        raise InvalidInput(
            f"labels of shape {list(y_true.shape)} do not fit predictions of shape {list(y_pred.shape)}."
            + (" Class numbers need loss='sparse_categorical_crossentropy'." if y_pred.shape[-1] > 1 else "")
        )
    return y_true.to(y_pred.dtype)


def class_numbers(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return class numbers, int64 [batch], given as [batch] or [batch, 1], for predictions [batch, units].

    Raises:
        InvalidInput: the shape is another, or a number names no unit.
    """
    if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1:
        y_true = y_true.squeeze(-1)
    units = y_pred.shape[-1]
    if y_true.shape != y_pred.shape[:-1]:
        raise InvalidInput(
            f"class numbers of shape {list(y_true.shape)} do not fit predictions of shape {list(y_pred.shape)}."
            + (" One-hot labels need loss='categorical_crossentropy'." if y_true.shape == y_pred.shape else "")
        )
    numbers = y_true.to(torch.int64)
    if numbers.numel() and (numbers.min() < 0 or numbers.max() >= units):
        raise InvalidInput(
            f"class numbers must lie in 0..{units - 1}, because the last layer has {units} units; "
            f"got {int(numbers.min())}..{int(numbers.max())}."
        )
    return numbers


def binary_crossentropy(
    y_true: torch.Tensor, y_pred: torch.Tensor, from_logits: bool = False, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the mean of -(y log p + (1 - y) log(1 - p)), p clipped to [1e-7, 1 - 1e-7].

    Args:
        y_true: 0 to 1, [batch] or [batch, units].
        y_pred: probabilities [batch, units]; with `from_logits` what a sigmoid would make probabilities of.
        from_logits: see `y_pred`.
        label_smoothing: share by which the labels move towards 0.5.
    """
    y_true = align_labels(y_true, y_pred)
    if y_true.numel() and (y_true.min() < 0 or y_true.max() > 1):
        raise InvalidInput(f"binary labels must lie in 0..1, got {float(y_true.min())}..{float(y_true.max())}.")
    y_true = y_true * (1 - label_smoothing) + 0.5 * label_smoothing
    if from_logits:
        return functional.binary_cross_entropy_with_logits(y_pred, y_true)
    p = y_pred.clamp(EPSILON, 1 - EPSILON)
    return -(y_true * torch.log(p) + (1 - y_true) * torch.log(1 - p)).mean()


def categorical_crossentropy(
    y_true: torch.Tensor, y_pred: torch.Tensor, from_logits: bool = False, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the mean of -sum(y log p) for one-hot y, p divided by its sum and clipped.

    Args:
        y_true: one-hot, [batch, units].
        y_pred: probabilities [batch, units]; with `from_logits` what a softmax would make probabilities of.
        from_logits: see `y_pred`.
        label_smoothing: share by which the labels move towards 1 / units.
    """
    y_true = align_labels(y_true, y_pred) * (1 - label_smoothing) + label_smoothing / y_pred.shape[-1]
    return -(y_true * _log_shares(y_pred, from_logits)).sum(-1).mean()


def sparse_categorical_crossentropy(
    y_true: torch.Tensor, y_pred: torch.Tensor, from_logits: bool = False
) -> torch.Tensor:
    """Return the mean of -log p[y] for class numbers y, p divided by its sum and clipped.

    Args:
        y_true: class numbers, [batch] or [batch, 1].
        y_pred: probabilities [batch, units]; with `from_logits` what a softmax would make probabilities of.
        from_logits: see `y_pred`.
    """
    numbers = class_numbers(y_true, y_pred)
    return -_log_shares(y_pred, from_logits).gather(-1, numbers.unsqueeze(-1)).mean()


def mean_squared_error(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return the mean of (y - p)²."""
    return (align_labels(y_true, y_pred) - y_pred).square().mean()


def _log_shares(y_pred: torch.Tensor, from_logits: bool) -> torch.Tensor:
    if from_logits:
        return torch.log_softmax(y_pred, dim=-1)
    shares = y_pred / y_pred.sum(-1, keepdim=True)
    return torch.log(shares.clamp(EPSILON, 1 - EPSILON))


@dataclass(frozen=True)
class BinaryCrossentropy:
    """`binary_crossentropy` with settings, as an object that `compile` takes.

    Attributes:
        from_logits: whether the model answers logits instead of probabilities.
        label_smoothing: share by which the labels move towards 0.5.
    """

    from_logits: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_settings(self.from_logits, self.label_smoothing)

    def __call__(self, y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        return binary_crossentropy(y_true, y_pred, self.from_logits, self.label_smoothing)


@dataclass(frozen=True)
class CategoricalCrossentropy:
    """`categorical_crossentropy` with settings, as an object that `compile` takes.

    Attributes:
        from_logits: whether the model answers logits instead of probabilities.
        label_smoothing: share by which the labels move towards 1 / units.
    """

    from_logits: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_settings(self.from_logits, self.label_smoothing)

    def __call__(self, y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        return categorical_crossentropy(y_true, y_pred, self.from_logits, self.label_smoothing)


@dataclass(frozen=True)
class SparseCategoricalCrossentropy:
    """`sparse_categorical_crossentropy` with settings, as an object that `compile` takes.

    Attributes:
        from_logits: whether the model answers logits instead of probabilities.
    """

    from_logits: bool = False

    def __post_init__(self) -> None:
        _check_settings(self.from_logits, 0.0)

    def __call__(self, y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        return sparse_categorical_crossentropy(y_true, y_pred, self.from_logits)


CONFIGURABLE: dict[str, Callable[..., Loss]] = {
    "binary_crossentropy": BinaryCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
}
"""The losses that have settings, by the name of the plain one."""

NAMED: dict[str, Loss] = {
    "binary_crossentropy": binary_crossentropy,
    "categorical_crossentropy": categorical_crossentropy,
    "sparse_categorical_crossentropy": sparse_categorical_crossentropy,
    "mean_squared_error": mean_squared_error,
    "mse": mean_squared_error,
}


def get(identifier: str | Loss | None) -> Loss:
    """Return the loss that a name or a callable stands for.

    Raises:
        InvalidArgument: the name is unknown, or it is neither a name nor a callable.
    """
    if callable(identifier):
        return identifier
    if isinstance(identifier, str) and identifier.lower() in NAMED:
        return NAMED[identifier.lower()]
    raise InvalidArgument(
        f"compile: `loss` must be a function of (y_true, y_pred) or one of {', '.join(NAMED)}; "
        f"got {identifier!r}.{did_you_mean(str(identifier), NAMED)}"
    )


def _check_settings(from_logits: object, label_smoothing: object) -> None:
    if not isinstance(from_logits, bool):
        raise InvalidArgument(f"`from_logits` must be True or False, got {from_logits!r}.")
    if (
        isinstance(label_smoothing, bool)
        or not isinstance(label_smoothing, int | float)
        or not 0 <= label_smoothing < 1
    ):
        raise InvalidArgument(f"`label_smoothing` must be a number from 0 to below 1, got {label_smoothing!r}.")
