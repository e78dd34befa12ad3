"""Owns the way from users' arrays to batches of tensors; knows no model and no training."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike

from conveyor_exporter.errors import InvalidArgument, InvalidInput

Batch = tuple[torch.Tensor, torch.Tensor]


def as_data(x: ArrayLike, y: ArrayLike) -> Batch:
    """Return inputs, float32, and labels as tensors of equal length.

    Raises:
        InvalidInput: they are empty, of different lengths or not numbers.
    """
    inputs, labels = as_tensor(x, "x").to(torch.float32), as_tensor(y, "y")
    if inputs.ndim == 0 or labels.ndim == 0 or len(inputs) != len(labels):
        raise InvalidInput(f"x and y must have one entry a sample, got {list(inputs.shape)} and {list(labels.shape)}.")
    if len(inputs) == 0:
        raise InvalidInput("x and y are empty.")
    return inputs, labels


def as_tensor(values: ArrayLike, name: str) -> torch.Tensor:
    """Return an array or a nested list as a tensor of its own type.

    Raises:
        InvalidInput: it does not hold numbers, or not the same number of them everywhere.
    """
    try:
        return torch.as_tensor(values if isinstance(values, torch.Tensor) else np.asarray(values))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be an array of numbers: {error}") from error


def split_end(data: Batch, share: float) -> tuple[Batch, Batch]:
    """Return (training, validation) samples: the validation has the last `share` of the samples, as in Keras.

    Raises:
        InvalidArgument: the share is not between 0 and 1, or leaves one of the two empty.
    """
    samples = len(data[0])
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise InvalidArgument(f"fit: `validation_split` must lie between 0 and 1, got {share!r}.")
    kept = int(samples * (1 - share))
    if kept in (0, samples):
        raise InvalidArgument(
            f"fit: validation_split={share} of {samples} samples leaves {kept} to train on and {samples - kept} to "
            "validate with; both need some."
        )
    return (data[0][:kept], data[1][:kept]), (data[0][kept:], data[1][kept:])


def batches(data: Batch, batch_size: int, shuffle: bool) -> Iterator[Batch]:
    """Yield the samples in batches, the last one smaller when it must be; torch's seed decides the shuffle."""
    inputs, labels = data
    order = torch.randperm(len(inputs)) if shuffle else torch.arange(len(inputs))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield inputs[chosen], labels[chosen]
