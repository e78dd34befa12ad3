"""Owns the arguments and the help of `conveyor-export train`."""

from pathlib import Path

from rich.console import Console

from conveyor_exporter.commands.options import DEFAULTS, ExportOptions


def command(
    specification: Path, data: Path, *, options: ExportOptions = DEFAULTS, checkpoint: Path | None = None
) -> None:
    """Train a network that is written as TOML, and export, verify and publish it with a model card.

    A share of the pictures is held out, and the finished model is measured on it. With a checkpoint, a training that
    was stopped goes on from it with the same command, to the same result.

    Parameters
    ----------
    specification: Path
        The network and its training, a TOML file.
    data: Path
        An npz file with x and y, or a folder with a folder of pictures (PNG, JPEG, npy) for each class.
    checkpoint: Path
        File to note the state of the training in after each epoch.
    """
    console = Console()
    with console.status("loading torch"):
        from conveyor_exporter.runs.training_run import run_training

    run_training(console, specification, data, checkpoint, options.keywords(specification.stem))
