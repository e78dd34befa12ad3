"""Owns the arguments and the help of `conveyor-export keras`."""

from pathlib import Path

from rich.console import Console

from conveyor_exporter.commands.options import DEFAULTS, ExportOptions


def command(file: Path, *, options: ExportOptions = DEFAULTS, data: Path | None = None) -> None:
    """Export a trained Keras model, and verify and publish it. Nothing in the file is run.

    Takes Sequential models, and Functional ones that are a chain of layers. Neither Keras nor TensorFlow is needed.

    Parameters
    ----------
    file: Path
        What model.save() wrote: a .keras file, or a legacy .h5 file of a whole model.
    data: Path | None
        Labelled pictures to verify on: an npz file with x and y, or a folder with a folder of pictures for each class.
    """
    from conveyor_exporter.runs.keras_export import run_keras_export

    run_keras_export(Console(), file, data, options.keywords(file.stem))
