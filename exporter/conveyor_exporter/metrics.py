"""Owns the metrics, with Keras' definitions; knows no model."""

from collections.abc import Callable, Mapping, Sequence

import torch

from conveyor_exporter.arguments import did_you_mean
from conveyor_exporter.errors import InvalidArgument, InvalidArgumentType
from conveyor_exporter.losses import align_labels, class_numbers

Metric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes true values and predictions [batch, units], float32; returns a value for the batch, a scalar."""


def binary_accuracy(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return the share of predictions on the right side of 0.5; exactly 0.5 counts as 0."""
    return (align_labels(y_true, y_pred) == (y_pred > 0.5).to(y_pred.dtype)).float().mean()


def categorical_accuracy(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return the share of predictions whose largest unit is that of the one-hot label."""
    return (align_labels(y_true, y_pred).argmax(-1) == y_pred.argmax(-1)).float().mean()


def sparse_categorical_accuracy(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return the share of predictions whose largest unit is the class number."""
    return (class_numbers(y_true, y_pred) == y_pred.argmax(-1)).float().mean()


def accuracy(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return the accuracy that fits: binary for one unit, else by class number or one-hot, as the labels are."""
    if y_pred.shape[-1] == 1:
        return binary_accuracy(y_true, y_pred)
    if y_true.ndim < y_pred.ndim or y_true.shape[-1] == 1:
        return sparse_categorical_accuracy(y_true, y_pred)
    return categorical_accuracy(y_true, y_pred)


NAMED: dict[str, Metric] = {
    "accuracy": accuracy,
    "acc": accuracy,
    "binary_accuracy": binary_accuracy,
    "categorical_accuracy": categorical_accuracy,
    "sparse_categorical_accuracy": sparse_categorical_accuracy,
}


def get_all(identifiers: Sequence[str | Metric] | None) -> dict[str, Metric]:
    """Return the metrics under the names that the history shows them by, in the order given.

    Raises:
        InvalidArgumentType: `identifiers` is no list.
        InvalidArgument: a name is unknown, or something is neither a name nor a callable.
    """
    if isinstance(identifiers, str) or not isinstance(identifiers, Sequence | None):
        raise InvalidArgumentType(f"compile: `metrics` must be a list such as ['accuracy'], got {identifiers!r}.")
    metrics: dict[str, Metric] = {}
    for identifier in identifiers or ():
        if callable(identifier):
            metrics[getattr(identifier, "__name__", type(identifier).__name__)] = identifier
        elif isinstance(identifier, str) and identifier.lower() in NAMED:
            metrics[identifier] = NAMED[identifier.lower()]
        else:
            raise InvalidArgument(
                f"compile: a metric must be a function of (y_true, y_pred) or one of {', '.join(NAMED)}; "
                f"got {identifier!r}.{did_you_mean(str(identifier), NAMED)}"
            )
    return metrics


class Averages:
    """Averages of values over batches, each batch weighing as many samples as it has."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._samples = 0

    def add(self, values: Mapping[str, float], samples: int) -> None:
        """Add the values of one batch."""
        self._samples += samples
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * samples

    def values(self) -> dict[str, float]:
        """Return the averages over all batches so far."""
        return {name: total / self._samples for name, total in self._sums.items()}
