"""Owns the training loop: batches, epochs, averages, history. Knows no layer and nothing of ONNX."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from rich.console import Console

from conveyor_exporter.arguments import positive_integer
from conveyor_exporter.errors import InvalidInput
from conveyor_exporter.evaluation import evaluation_mode
from conveyor_exporter.losses import Loss
from conveyor_exporter.metrics import Metric
from conveyor_exporter.network import Network
from conveyor_exporter.optimizers import Optimizer
from conveyor_exporter.progress import TrainingProgress

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass
class History:
    """What `fit` returns.

    Attributes:
        history: for each metric, then `loss`, then the same with `val_` before it: one value an epoch.
        epoch: the epochs, counted from 0.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    epoch: list[int] = field(default_factory=list)

    def append(self, values: Mapping[str, float]) -> None:
        """Add one epoch."""
        self.epoch.append(len(self.epoch))
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)


class Trainer:
    """Trains and evaluates one network; keeps the optimiser's state between calls of `fit`.

    Args:
        network: the network; it may get its shape from the first data.
        optimizer: makes torch's optimiser once the weights exist.
        loss: the function to minimise.
        metrics: functions to report beside it, by name.
    """

    def __init__(self, network: Network, optimizer: Optimizer, loss: Loss, metrics: Mapping[str, Metric]) -> None:
        self._network, self._recipe, self._loss, self._metrics = network, optimizer, loss, dict(metrics)
        self._optimizer: torch.optim.Optimizer | None = None
        self._bound: list[torch.nn.Parameter] = []  # the weights that it was made for

    def fit(
        self,
        data: Batch,
        *,
        batch_size: int,
        epochs: int,
        shuffle: bool,
        validation_data: Batch | None,
        console: Console | None,
    ) -> History:
        """Train on `data` for some epochs and return the history; no console, no output."""
        steps = math.ceil(len(data[0]) / positive_integer(batch_size, "batch_size", "fit"))
        optimizer = self._bound_optimizer()
        history = History()
        with TrainingProgress(console or Console(), epochs, steps, visible=console is not None) as progress:
            for epoch in range(1, positive_integer(epochs, "epochs", "fit") + 1):
                progress.start_epoch(epoch)
                values = self._train_epoch(data, batch_size, shuffle, optimizer, progress)
                if validation_data is not None:
                    validated = self.evaluate(validation_data, batch_size)
                    values |= {f"val_{name}": value for name, value in validated.items()}
                history.append(values)
                progress.end_epoch(epoch, values)
        return history

    def evaluate(self, data: Batch, batch_size: int) -> dict[str, float]:
        """Return the metrics, then the loss, averaged over the samples."""
        averages = _Averages()
        with evaluation_mode(self._network):
            for inputs, labels in batches(data, batch_size, shuffle=False):
                outputs = self._network(inputs)
                labels = labels.to(outputs.device)
                averages.add(self._measure(labels, outputs, self._loss(labels, outputs)), len(inputs))
        return averages.values()

    def _train_epoch(
        self,
        data: Batch,
        batch_size: int,
        shuffle: bool,
        optimizer: torch.optim.Optimizer,
        progress: TrainingProgress,
    ) -> dict[str, float]:
        averages = _Averages()
        self._network.train()
        for inputs, labels in batches(data, batch_size, shuffle):
            optimizer.zero_grad()
            outputs = self._network(inputs)
            labels = labels.to(outputs.device)
            loss = self._loss(labels, outputs)
            torch.autograd.backward(loss)
            optimizer.step()
            averages.add(self._measure(labels, outputs.detach(), loss.detach()), len(inputs))
            progress.step(averages.values())
        return averages.values()

    def _measure(self, labels: torch.Tensor, outputs: torch.Tensor, loss: torch.Tensor) -> dict[str, float]:
        measured = {name: float(metric(labels, outputs)) for name, metric in self._metrics.items()}
        return measured | {"loss": float(loss)}

    def _bound_optimizer(self) -> torch.optim.Optimizer:
        weights = list(self._network.parameters())
        if self._optimizer is None or list(map(id, weights)) != list(map(id, self._bound)):  # a layer was added
            self._optimizer, self._bound = self._recipe.bind(weights), weights
        return self._optimizer


class _Averages:
    """Averages of values over batches, each batch weighing as many samples as it has."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._samples = 0

    def add(self, values: Mapping[str, float], samples: int) -> None:
        self._samples += samples
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * samples

    def values(self) -> dict[str, float]:
        return {name: total / self._samples for name, total in self._sums.items()}


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


def batches(data: Batch, batch_size: int, shuffle: bool) -> Iterator[Batch]:
    """Yield the samples in batches, the last one smaller when it must be; torch's seed decides the shuffle."""
    inputs, labels = data
    order = torch.randperm(len(inputs)) if shuffle else torch.arange(len(inputs))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield inputs[chosen], labels[chosen]
