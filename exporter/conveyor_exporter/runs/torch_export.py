"""Owns what the torch command does and says. Loads torch only when it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from conveyor_exporter.report.speech import say, say_exported


@dataclass(frozen=True)
class TorchSource:
    """Where a torch module comes from.

    Attributes:
        factory: `package.module:name`.
        weights: the file with its weights.
        input_shape: what the exported file takes: height, width, channels.
        channels_first: whether the module takes its channels first.
        activation: what to put behind its logits, if anything.
        data: npz file or folder of labelled pictures to verify on.
    """

    factory: str
    weights: Path
    input_shape: tuple[int, ...]
    channels_first: bool
    activation: str | None
    data: Path | None


def run_torch_export(console: Console, given: TorchSource, keywords: Mapping[str, Any]) -> None:
    """Make the module, load its weights, and export, verify and publish it.

    Args:
        console: where to say what happens.
        given: where the module comes from.
        keywords: arguments of `pipeline.export` but for the model and where it comes from.

    Raises:
        ExporterError: the module or the weights cannot be used, or the export failed or did not verify.
    """
    with console.status("loading"):
        from conveyor_exporter.onnx_file.metadata import Source
        from conveyor_exporter.pipeline import export
        from conveyor_exporter.sources.torch_module import fit_ends, load_weights, make_module, read_weights

        weights = read_weights(given.weights)
        module = make_module(given.factory)
        load_weights(module, weights)
        fit_ends(module, given.channels_first, given.activation)
        data = None
        if given.data is not None:
            from conveyor_exporter.pictures.dataset import read_dataset

            labels = keywords.get("labels")
            dataset = read_dataset(given.data, given.input_shape, keywords["input_range"], labels, console)
            data = dataset.samples
    parameters = sum(parameter.numel() for parameter in module.parameters())
    say(console, f"{given.factory}: {type(module).__name__}, {parameters:,} parameters from {given.weights}")
    with console.status("exporting and verifying"):
        source = Source("torch", weights.sha256)
        exported = export(module, input_shape=given.input_shape, source=source, data=data, **keywords)
    say_exported(console, exported, "torch")
