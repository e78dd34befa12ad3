"""Owns the training loop: epochs, averages, history, early stop, checkpoints. Knows no layer and nothing of ONNX."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from rich.console import Console

from conveyor_exporter.arguments import positive_integer
from conveyor_exporter.errors import CheckpointFailed
from conveyor_exporter.evaluation import evaluation_mode
from conveyor_exporter.losses import Loss
from conveyor_exporter.metrics import Averages, Metric
from conveyor_exporter.network import Network
from conveyor_exporter.optimizers import Optimizer
from conveyor_exporter.training.batches import Batch, batches
from conveyor_exporter.training.checkpoint import Checkpoint, Snapshot
from conveyor_exporter.training.early_stopping import EarlyStopping, Watch
from conveyor_exporter.training.progress import TrainingProgress
from conveyor_exporter.training.randomness import random_states, restore_random_states


@dataclass
class History:
    """What `fit` returns.

    Attributes:
        history: for each metric, then `loss`, then the same with `val_` before it: one value an epoch.
        epoch: the epochs, counted from 0.
        best_epoch: the epoch, from 0, whose weights early stopping gave back to the model; None when it did not.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    epoch: list[int] = field(default_factory=list)
    best_epoch: int | None = None

    def append(self, values: Mapping[str, float]) -> None:
        """Add one epoch."""
        self.epoch.append(len(self.epoch))
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)


@dataclass(frozen=True)
class Course:
    """How a training runs.

    Attributes:
        batch_size: samples a step.
        epochs: how often to go through all samples, at most.
        shuffle: whether each epoch takes the samples in a new order.
        validation_data: what to evaluate after each epoch.
        early_stopping: when to stop before the last epoch.
        checkpoint: where to note the state after each epoch, and from where to go on.
        console: where to show the progress; None shows nothing.
    """

    batch_size: int = 32
    epochs: int = 1
    shuffle: bool = True
    validation_data: Batch | None = None
    early_stopping: EarlyStopping | None = None
    checkpoint: Checkpoint | None = None
    console: Console | None = None

    def __post_init__(self) -> None:
        positive_integer(self.batch_size, "batch_size", "fit")
        positive_integer(self.epochs, "epochs", "fit")


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

    def fit(self, data: Batch, course: Course) -> History:
        """Train on `data` for some epochs and return the history.

        Raises:
            InvalidArgument: early stopping watches a value that nothing measures.
            CheckpointFailed: the checkpoint cannot be written or read, or belongs to another training.
        """
        if course.early_stopping is not None:
            course.early_stopping.check(self._measured(course.validation_data is not None))
        steps = math.ceil(len(data[0]) / course.batch_size)
        optimizer, history, watch, finished = self._bound_optimizer(), History(), Watch(), False
        snapshot = None if course.checkpoint is None else course.checkpoint.load()
        if snapshot is not None:
            self._restore(snapshot, optimizer)
            history = History(snapshot.history, list(range(snapshot.epochs)))
            watch, finished = snapshot.watch, snapshot.finished
        done, console = len(history.epoch), course.console
        with TrainingProgress(console or Console(), course.epochs, steps, console is not None, done) as progress:
            if snapshot is not None:
                progress.say(f"{done} of {course.epochs} epochs are done, says the checkpoint")
            while not finished:
                values = self._epoch(data, course, optimizer, progress, number=len(history.epoch) + 1)
                history.append(values)
                finished = len(history.epoch) == course.epochs
                if course.early_stopping is not None:
                    epoch = history.epoch[-1]
                    finished |= watch.observe(course.early_stopping, epoch, values, self._network.state_dict)
                if course.checkpoint is not None:
                    course.checkpoint.save(self._snapshot(optimizer, history, watch, finished))
            if len(history.epoch) < course.epochs and course.early_stopping is not None:
                progress.say(f"stopped early: {course.early_stopping.monitor} has not got better any more")
        if watch.best_weights:
            self._network.load_state_dict(watch.best_weights)
            history.best_epoch = watch.best_epoch
        return history

    def evaluate(self, data: Batch, batch_size: int) -> dict[str, float]:
        """Return the metrics, then the loss, averaged over the samples."""
        averages = Averages()
        with evaluation_mode(self._network):
            for inputs, labels in batches(data, batch_size, shuffle=False):
                outputs = self._network(inputs)
                labels = labels.to(outputs.device)
                averages.add(self._measure(labels, outputs, self._loss(labels, outputs)), len(inputs))
        return averages.values()

    def _epoch(
        self, data: Batch, course: Course, optimizer: torch.optim.Optimizer, progress: TrainingProgress, number: int
    ) -> dict[str, float]:
        """Train one epoch, counted from 1, and return its values and those of the validation."""
        progress.start_epoch(number)
        averages = Averages()
        self._network.train()
        for inputs, labels in batches(data, course.batch_size, course.shuffle):
            optimizer.zero_grad()
            outputs = self._network(inputs)
            labels = labels.to(outputs.device)
            loss = self._loss(labels, outputs)
            torch.autograd.backward(loss)
            optimizer.step()
            averages.add(self._measure(labels, outputs.detach(), loss.detach()), len(inputs))
            progress.step(averages.values())
        values = averages.values()
        if course.validation_data is not None:
            validated = self.evaluate(course.validation_data, course.batch_size)
            values |= {f"val_{name}": value for name, value in validated.items()}
        progress.end_epoch(number, values)
        return values

    def _measured(self, validated: bool) -> list[str]:
        names = [*self._metrics, "loss"]
        return [*names, *(f"val_{name}" for name in names if validated)]

    def _measure(self, labels: torch.Tensor, outputs: torch.Tensor, loss: torch.Tensor) -> dict[str, float]:
        measured = {name: float(metric(labels, outputs)) for name, metric in self._metrics.items()}
        return measured | {"loss": float(loss)}

    def _bound_optimizer(self) -> torch.optim.Optimizer:
        weights = list(self._network.parameters())
        if self._optimizer is None or list(map(id, weights)) != list(map(id, self._bound)):  # a layer was added
            self._optimizer, self._bound = self._recipe.bind(weights), weights
        return self._optimizer

    def _snapshot(self, optimizer: torch.optim.Optimizer, history: History, watch: Watch, finished: bool) -> Snapshot:
        weights, random = self._network.state_dict(), random_states(self._network)
        return Snapshot(weights, optimizer.state_dict(), random, history.history, len(history.epoch), watch, finished)

    def _restore(self, snapshot: Snapshot, optimizer: torch.optim.Optimizer) -> None:
        try:
            self._network.load_state_dict(snapshot.weights)
            optimizer.load_state_dict(snapshot.optimizer)
            restore_random_states(self._network, snapshot.random)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointFailed(f"the checkpoint does not fit this network: {error}") from error
