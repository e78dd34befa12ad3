"""The work of `conveyor-client predict`: batches of images through a model, several requests at a time."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from conveyor_server.client import cli_report as report
from conveyor_server.client.arrays import Outputs
from conveyor_server.client.client import Client
from conveyor_server.client.descriptions import ModelDescription
from conveyor_server.client.image_files import Batch, Loaded
from conveyor_server.client.labels import Prediction, read_predictions
from conveyor_server.client.pictures import render

_AT_A_TIME = 4
"""Requests: while one is answered, the images of the next ones are read."""


@dataclass
class Answered:
    """One batch, with what the model said."""

    loaded: Loaded
    answers: list[report.Answer] = field(default_factory=list)
    seconds: float = 0.0
    """From the request to its answer."""


def predict_batches(
    client: Client, model: ModelDescription, version: str, batches: Sequence[Batch]
) -> Iterator[Answered]:
    """The answers to the batches, in their order.

    Raises:
        CallError, TypeError, ValueError: as `Client.infer`; no more requests are made then.
    """
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        try:
            yield from pool.map(lambda batch: _predict(client, model, version, batch), batches)
        finally:
            pool.shutdown(cancel_futures=True)


def print_notes(loaded: Loaded, shown: bool) -> None:
    """Says what could not be read and what was resized; shows the pictures if wanted, where there are colours."""
    for problem in loaded.problems:
        report.print_error(problem)
    for path, picture in zip(loaded.paths, loaded.pictures, strict=False):
        if picture.resized_from:
            (height, width), wanted = picture.resized_from, picture.pixels.shape
            report.print_warning(
                f"{path} is {width}x{height} pixels and was resized to the model's {wanted[1]}x{wanted[0]}; details "
                "may be lost."
            )
        if shown and report.console.is_terminal:
            report.console.print(render(picture), str(path))


def _predict(client: Client, model: ModelDescription, version: str, batch: Batch) -> Answered:
    answered = Answered(batch.load(model))
    images = answered.loaded.images
    if images is not None:
        begin = time.perf_counter()
        outputs = client.infer(model.name, {model.inputs[0].name: images}, version=version)
        answered.seconds = time.perf_counter() - begin
        answered.answers = _answers(answered.loaded, outputs, model)
    return answered


def _answers(loaded: Loaded, outputs: Outputs, model: ModelDescription) -> list[report.Answer]:
    predictions: list[Prediction] | list[None] = [None] * len(loaded.names)
    if is_classifier(model):
        predictions = read_predictions(next(iter(outputs.values())), model.labels, model.threshold)
    rows = {name: array.tolist() for name, array in outputs.items()}
    return [
        report.Answer(name, path, prediction, {output: values[row] for output, values in rows.items()})
        for row, (name, path, prediction) in enumerate(zip(loaded.names, loaded.paths, predictions, strict=True))
    ]


def is_classifier(model: ModelDescription) -> bool:
    """Whether the model's one output is `[batch, classes]`."""
    return len(model.outputs) == 1 and len(model.outputs[0].shape) == 2 and model.outputs[0].dtype.kind == "f"
