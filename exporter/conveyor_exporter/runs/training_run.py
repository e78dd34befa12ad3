"""Owns what the train command does and says: read, split, train, measure, export with its card, publish."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from conveyor_exporter.errors import InvalidData
from conveyor_exporter.models import Sequential
from conveyor_exporter.onnx_file.calibration import calibration_pictures
from conveyor_exporter.onnx_file.file_format import Precision
from conveyor_exporter.onnx_file.metadata import Metadata, Source
from conveyor_exporter.pictures.dataset import Dataset, Split, read_dataset
from conveyor_exporter.pictures.labelled_data import LabelledData
from conveyor_exporter.pictures.pixels import Range
from conveyor_exporter.pipeline import Exported, export
from conveyor_exporter.publish import check_model_name
from conveyor_exporter.report.model_card import FILE_NAME, CardFacts, card
from conveyor_exporter.report.speech import say, say_exported
from conveyor_exporter.sources.specification import Specification, read_specification
from conveyor_exporter.training.checkpoint import Checkpoint
from conveyor_exporter.training.trainer import History

BATCH_SIZE = 256  # of pictures that are answered together


@dataclass(frozen=True)
class Prepared:
    """All that a training needs.

    Attributes:
        specification: the network and its training.
        dataset: the pictures.
        split: the same in three parts.
        input_range: smallest and largest value of a picture.
    """

    specification: Specification
    dataset: Dataset
    split: Split
    input_range: Range

    @property
    def identity(self) -> dict[str, str]:
        """What makes a training this one, in words: a checkpoint of another is refused."""
        data = {"data.sha256": self.dataset.sha256, "data.pictures": str(len(self.dataset.samples))}
        return self.specification.identity | data | {"input_range": repr(self.input_range)}


def run_training(
    console: Console, specification: Path, data: Path, checkpoint: Path | None, options: dict[str, Any]
) -> None:
    """Train a network written as TOML, and export, verify and publish it with its card.

    Args:
        console: where to say what happens.
        specification: the TOML file.
        data: an npz file, or a folder of class folders.
        checkpoint: the file that a stopped training goes on from.
        options: arguments of `export`, `name` and `repository` among them.

    Raises:
        ExporterError: the specification, the data or the checkpoint cannot be used, or the export did not verify.
    """
    check_model_name(options["name"])  # before the work, not after it
    prepared = _prepare(console, specification, data, options)
    torch.manual_seed(prepared.specification.training.seed)
    model = prepared.specification.build()
    history = _train(console, model, prepared, checkpoint)
    accuracy = _accuracy(model, prepared.split.test, options["threshold"])
    say(console, f"  accuracy  {accuracy:.1%} on the {len(prepared.split.test):,} test pictures")
    with console.status("exporting and verifying"):
        exported = _export(model, prepared, history, accuracy, data.name, options)
    say_exported(console, exported, "torch")
    say(console, f"  card      {exported.published.path.with_name(FILE_NAME)}")
    if checkpoint is not None:
        say(console, f"  kept      {checkpoint}, the checkpoint; remove it when you need it no more")


def _prepare(console: Console, specification: Path, data: Path, options: dict[str, Any]) -> Prepared:
    read = read_specification(specification)
    input_range: Range = options["input_range"]
    dataset = read_dataset(data, read.input_shape, input_range, options["labels"], console)
    units = read.build().output_shape[0]
    if max(units, 2) != len(dataset.classes):
        raise InvalidData(
            f"{data} has {len(dataset.classes)} classes ({', '.join(dataset.classes[:10])}), but the network of "
            f"{specification} has {units} output{'s' if units > 1 else ', which is for two classes'}."
        )
    Metadata.for_units(units, dataset.classes, options["threshold"], input_range)  # refuses before the work, not after
    split = dataset.split(read.training.validation_split, read.training.test_split, read.training.seed)
    if options["precision"] == Precision.INT8:
        calibration_pictures(split.training.images)  # refuses before the work, too
    height, width, channels = read.input_shape
    say(
        console,
        f"{len(dataset.samples):,} pictures of {width}x{height} pixels, {channels} channel{'s' * (channels > 1)}, in "
        f"{len(dataset.classes)} classes: "
        + ", ".join(f"{count:,} to {purpose}" for purpose, count in _sizes(split).items()),
    )
    for note in dataset.notes:
        say(console, f"  {note}")
    return Prepared(read, dataset, split, input_range)


def _train(console: Console, model: Sequential, prepared: Prepared, path: Path | None) -> History:
    settings, split = prepared.specification.training, prepared.split
    checkpoint = None if path is None else Checkpoint(path, prepared.identity)
    classes = len(prepared.dataset.classes)
    validation = None
    if split.validation is not None:
        validation = (split.validation.images, _targets(split.validation.labels, settings.one_hot, classes))
    try:
        return model.fit(
            split.training.images,
            _targets(split.training.labels, settings.one_hot, classes),
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            shuffle=settings.shuffle,
            validation_data=validation,
            early_stopping=settings.early_stopping,
            checkpoint=checkpoint,
        )
    except KeyboardInterrupt:
        if path is not None and path.exists():
            say(console, f"the checkpoint {path} is kept; the same command goes on from it")
        raise


def _targets(labels: NDArray[np.int64], one_hot: bool, classes: int) -> NDArray[np.generic]:
    return np.eye(classes, dtype=np.float32)[labels] if one_hot else labels


def _accuracy(model: Sequential, test: LabelledData, threshold: float) -> float:
    answers = model.predict(test.images, batch_size=BATCH_SIZE)
    predicted = answers[:, 0] > threshold if answers.shape[1] == 1 else answers.argmax(1)
    return round(float((predicted == test.labels).mean()), 6)


def _export(
    model: Sequential, prepared: Prepared, history: History, accuracy: float, data: str, options: dict[str, Any]
) -> Exported:
    split, classes = prepared.split, prepared.dataset.classes
    metrics = {
        "epochs": len(history.epoch),
        "test_accuracy": accuracy,
        "test_samples": len(split.test),
        "train_samples": len(split.training),
    }
    if split.validation is not None:
        metrics["validation_samples"] = len(split.validation)
    facts = CardFacts(
        about=f"Tells {', '.join(classes[:-1])} and {classes[-1]} apart, on small pictures.",
        test=split.test,
        sizes={"training": len(split.training), "validation": len(split.validation or ()), "test": len(split.test)},
        data=(f"From {data}, SHA-256 of its pictures and labels {prepared.dataset.sha256}.", *prepared.dataset.notes),
        settings=prepared.specification.training_in_words,
        history=history,
    )
    source = Source.of("conveyor", prepared.specification.content)
    given = options | {"labels": classes, "training_metrics": metrics, "source": source, "data": split.test}
    return export(model, calibration=split.training.images, beside=card(model, facts), **given)


def _sizes(split: Split) -> dict[str, int]:
    parts = {"train on": split.training, "validate with": split.validation, "test with": split.test}
    return {purpose: len(part) for purpose, part in parts.items() if part is not None}
