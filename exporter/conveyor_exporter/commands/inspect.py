"""Owns the arguments and the help of `conveyor-export inspect`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console


def command(file: Path, *, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Say what an ONNX file is: signature, metadata, layers with operators, parameters and cost for one image.

    Nothing in the file is run. Parameters count all constants but shapes and lone numbers.

    Parameters
    ----------
    file: Path
        An ONNX file, ours or anyone's.
    json: bool
        Print JSON instead of a table.
    """
    from conveyor_exporter.report.model_report import print_inspection

    print_inspection(Console(), file, json)
