"""Owns the loss functions, with Keras' formulas on probabilities; knows no model."""

from collections.abc import Callable

import torch

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


def binary_crossentropy(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return the mean of -(y log p + (1 - y) log(1 - p)), p clipped to [1e-7, 1 - 1e-7]."""
    y_true = align_labels(y_true, y_pred)
    if y_true.numel() and (y_true.min() < 0 or y_true.max() > 1):
        raise InvalidInput(f"binary labels must lie in 0..1, got {float(y_true.min())}..{float(y_true.max())}.")
    p = y_pred.clamp(EPSILON, 1 - EPSILON)
    return -(y_true * torch.log(p) + (1 - y_true) * torch.log(1 - p)).mean()


def categorical_crossentropy(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return the mean of -sum(y log p) for one-hot y, p divided by its sum and clipped."""
    return -(align_labels(y_true, y_pred) * _log_shares(y_pred)).sum(-1).mean()


def sparse_categorical_crossentropy(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return the mean of -log p[y] for class numbers y, p divided by its sum and clipped."""
    numbers = class_numbers(y_true, y_pred)
    return -_log_shares(y_pred).gather(-1, numbers.unsqueeze(-1)).mean()


def mean_squared_error(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return the mean of (y - p)²."""
    return (align_labels(y_true, y_pred) - y_pred).square().mean()


def _log_shares(y_pred: torch.Tensor) -> torch.Tensor:
    shares = y_pred / y_pred.sum(-1, keepdim=True)
    return torch.log(shares.clamp(EPSILON, 1 - EPSILON))


NAMED: dict[str, Loss] = {
    "binary_crossentropy": binary_crossentropy,
    "categorical_crossentropy": categorical_crossentropy,
    "sparse_categorical_crossentropy": sparse_categorical_crossentropy,
    "mean_squared_error": mean_squared_error,
    "mse": mean_squared_error,
}


def get(identifier: str | Loss) -> Loss:
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
