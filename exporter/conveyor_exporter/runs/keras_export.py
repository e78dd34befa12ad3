"""Owns what the keras command does and says. Loads torch only when it runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from conveyor_exporter.report.speech import say, say_exported

if TYPE_CHECKING:
    from conveyor_exporter.pictures.labelled_data import LabelledData
    from conveyor_exporter.pipeline import Beside
    from conveyor_exporter.sources.keras_file import KerasModel


def run_keras_export(console: Console, path: Path, data: Path | None, keywords: Mapping[str, Any]) -> None:
    """Read a trained Keras model, show it, and export, verify and publish it.

    Args:
        console: where to say what happens.
        path: a `.keras` or `.h5` file.
        data: npz file or folder of labelled pictures to verify on.
        keywords: arguments of `pipeline.export` but for the model and its source.

    Raises:
        ExporterError: the file is refused, or the export failed or did not verify.
    """
    with console.status("reading"):
        from conveyor_exporter.onnx_file.metadata import Source
        from conveyor_exporter.pipeline import export
        from conveyor_exporter.sources.keras_file import add_missing_head, read_keras

        model = read_keras(path)
    head = add_missing_head(model.network, model.loss)
    _describe(console, path, model, head)
    samples = None if data is None else _read_data(console, data, model, keywords)
    with console.status("exporting and verifying"):
        source = Source(model.format, model.sha256)
        beside = None if samples is None else _card(path, model, samples)
        exported = export(model.network, source=source, data=samples, beside=beside, **keywords)
    say_exported(console, exported, "the model")


def _describe(console: Console, path: Path, model: "KerasModel", head: str | None) -> None:
    written_by = f"Keras {model.keras_version}" if model.keras_version else "Keras"
    say(console, f"{path}: written by {written_by}; read as data, nothing in it was run")
    model.network.summary(lambda table: say(console, table))
    if model.left_out:
        say(console, f"  left out  {', '.join(model.left_out)}: of use in training only")
    if head is not None:
        say(console, f"  added     {head} at the end, because the model was trained with a loss on logits")


def _card(path: Path, model: "KerasModel", samples: "LabelledData") -> "Beside":
    from conveyor_exporter.report.model_card import CardFacts, card

    about = f"Read from {path.name}, which Keras wrote; measured here on labelled pictures that came with the export."
    return card(model.network, CardFacts(about, samples, {"test": len(samples)}))


def _read_data(console: Console, path: Path, model: "KerasModel", keywords: Mapping[str, Any]) -> "LabelledData":
    from conveyor_exporter.pictures.dataset import read_dataset

    shape = model.network.input_shape
    return read_dataset(path, shape, keywords["input_range"], keywords.get("labels"), console).samples
