"""Owns the model that users program: the network plus compile, fit, evaluate and predict. Knows nothing of ONNX."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from rich.console import Console

from conveyor_exporter import losses, optimizers
from conveyor_exporter.arguments import positive_integer
from conveyor_exporter.errors import NotCompiled
from conveyor_exporter.evaluation import evaluation_mode
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.input import Input
from conveyor_exporter.losses import Loss
from conveyor_exporter.metrics import Metric
from conveyor_exporter.metrics import get_all as get_metrics
from conveyor_exporter.network import Network
from conveyor_exporter.optimizers import Optimizer
from conveyor_exporter.training.batches import as_data, as_tensor, split_end
from conveyor_exporter.training.checkpoint import Checkpoint
from conveyor_exporter.training.early_stopping import EarlyStopping
from conveyor_exporter.training.progress import in_words
from conveyor_exporter.training.trainer import Course, History, Trainer

Verbosity = Literal["auto", 0, 1, 2]


class Sequential(Network):
    """A chain of layers that trains as Keras' `Sequential` does.

    Args:
        layers: the first layers, as if given to `add` one by one.
        name: how the summary calls the model.
    """

    def __init__(self, layers: Iterable[Layer | Input] = (), name: str | None = None) -> None:
        super().__init__(layers, name)
        self._trainer: Trainer | None = None

    def compile(
        self,
        optimizer: str | Optimizer = "rmsprop",
        loss: str | Loss | None = None,
        metrics: Sequence[str | Metric] | None = None,
    ) -> None:
        """Choose how to train.

        Args:
            optimizer: `rmsprop`, `adam`, `sgd`, or an object of `conveyor_exporter.optimizers`.
            loss: a name such as `binary_crossentropy`, an object of `conveyor_exporter.losses`, or a function of
                (y_true, y_pred) giving a scalar. It must be given; the default only keeps Keras' order of arguments.
            metrics: names such as `accuracy`, or functions like a loss.

        Raises:
            InvalidArgument: one of them is unknown.
        """
        self._trainer = Trainer(self, optimizers.get(optimizer), losses.get(loss), get_metrics(metrics))

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        batch_size: int = 32,
        epochs: int = 1,
        verbose: Verbosity = "auto",
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        shuffle: bool = True,
        validation_split: float = 0.0,
        early_stopping: EarlyStopping | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> History:
        """Train the model.

        With a checkpoint, a training that was stopped goes on after its last whole epoch, to the same weights that it
        would have reached at once, if it is called as before on the same machine.

        Args:
            x: [samples, *input_shape], any number type; computed in float32.
            y: labels: [samples] or [samples, 1] for one unit or for class numbers, [samples, units] for one-hot.
            batch_size: samples a step; the last step of an epoch may have fewer.
            epochs: how often to go through all samples.
            verbose: 0 shows nothing; anything else a bar on a terminal, and a line an epoch elsewhere.
            validation_data: (x, y) to evaluate after each epoch.
            shuffle: whether each epoch takes the samples in a new order; `torch.manual_seed` decides which.
            validation_split: share of the samples, the last ones, to evaluate after each epoch instead of training on
                them; `validation_data` goes before it.
            early_stopping: when to stop before the last epoch.
            checkpoint: a file that notes the state after each epoch.

        Returns:
            The metrics and the loss of each epoch.

        Raises:
            NotCompiled: `compile()` was not called.
            InvalidArgument: an argument cannot be.
            InvalidInput: the data do not fit the model or one another.
            CheckpointFailed: the checkpoint cannot be written or read, or belongs to another training.
        """
        trainer, data = self._compiled(), as_data(x, y)
        self.check_inputs(data[0])
        validation = None if validation_data is None else as_data(*validation_data)
        if validation is None and validation_split != 0:
            data, validation = split_end(data, validation_split)
        console = Console() if verbose else None
        course = Course(batch_size, epochs, shuffle, validation, early_stopping, checkpoint, console)
        return trainer.fit(data, course)

    def evaluate(
        self,
        x: ArrayLike,
        y: ArrayLike,
        batch_size: int = 32,
        verbose: Verbosity = "auto",
        return_dict: bool = False,
    ) -> float | list[float] | dict[str, float]:
        """Measure the model on labelled data, taken as `fit` takes it.

        Args:
            x: as in `fit`.
            y: as in `fit`.
            batch_size: samples that are computed together.
            verbose: 0 shows nothing; anything else a line with the values.
            return_dict: whether to return the values by name.

        Returns:
            [loss, *metrics] in the order of `compile`; the loss alone when there are no metrics; with `return_dict`,
            all of them by name.

        Raises:
            NotCompiled: `compile()` was not called.
            InvalidInput: the data do not fit the model or one another.
        """
        trainer, data = self._compiled(), as_data(x, y)
        values = trainer.evaluate(data, positive_integer(batch_size, "batch_size", "evaluate"))
        if verbose:
            Console().print(in_words(values), highlight=False, soft_wrap=True)
        if return_dict:
            return values
        loss = values.pop("loss")
        return [loss, *values.values()] if values else loss

    def predict(self, x: ArrayLike, batch_size: int = 32, verbose: Verbosity = "auto") -> NDArray[np.float32]:
        """Return the answers, float32 [samples, *output_shape], for [samples, *input_shape].

        Args:
            x: [samples, *input_shape], any number type; computed in float32.
            batch_size: samples that are computed together.
            verbose: taken for the sake of Keras programs; nothing is shown either way.

        Raises:
            InvalidInput: the data do not fit the model.
        """
        inputs = as_tensor(x, "x")
        self.check_inputs(inputs)
        size = positive_integer(batch_size, "batch_size", "predict")
        with evaluation_mode(self):
            outputs = [self(inputs[start : start + size]) for start in range(0, max(len(inputs), 1), size)]
        return np.asarray(torch.cat(outputs).cpu().numpy())

    def _compiled(self) -> Trainer:
        if self._trainer is None:
            raise NotCompiled(f"{self.name}: call `compile()` before `fit()` and `evaluate()`.")
        return self._trainer
