"""Owns the arguments, the help and the exit codes of `conveyor-export diff`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

EQUAL, DIFFERENT, NOT_COMPARED = 0, 1, 2


def command(first: Path, second: Path, *, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Say in what two ONNX files differ: signature, metadata, operators, weights.

    The exit code is 0 when they say the same, 1 when they differ, 2 when a file cannot be read as ONNX.

    Parameters
    ----------
    first: Path
        An ONNX file, ours or anyone's.
    second: Path
        The file to compare it with.
    json: bool
        Print JSON instead of text.
    """
    from conveyor_exporter.errors import ModelFileRefused
    from conveyor_exporter.report.model_report import print_differences

    try:
        return DIFFERENT if print_differences(Console(), first, second, json) else EQUAL
    except ModelFileRefused as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return NOT_COMPARED
