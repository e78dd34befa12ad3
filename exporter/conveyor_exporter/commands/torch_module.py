"""Owns the arguments and the help of `conveyor-export torch`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from conveyor_exporter.commands.options import DEFAULTS, ExportOptions, parse_shape


def command(
    factory: str,
    *,
    weights: Path,
    input_shape: str,
    options: ExportOptions = DEFAULTS,
    channels_first: Annotated[bool, Parameter(negative="")] = False,
    activation: Literal["softmax", "sigmoid"] | None = None,
    data: Path | None = None,
) -> None:
    """Export a trained torch module, and verify and publish it.

    The factory is your own code, and runs; the weights are read as data, never as code.

    Parameters
    ----------
    factory: str
        What makes the module without arguments: package.module:name, or file.py:name. The current folder is looked in.
    weights: Path
        What safetensors.torch.save_file(model.state_dict(), …) or torch.save(model.state_dict(), …) wrote.
    input_shape: str
        What the exported file takes: height,width,channels, such as 28,28,1.
    channels_first: bool
        The module takes [batch, channels, height, width], as torch's own layers do.
    activation: Literal["softmax", "sigmoid"] | None
        The module gives logits: put this behind them.
    data: Path | None
        Labelled pictures to verify on: an npz file with x and y, or a folder with a folder of pictures for each class.
    """
    from conveyor_exporter.runs.torch_export import TorchSource, run_torch_export

    source = TorchSource(factory, weights, parse_shape(input_shape), channels_first, activation, data)
    run_torch_export(Console(), source, options.keywords(factory.rpartition(":")[2]))
