"""Owns the arguments and the help of `conveyor-export demo`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators
from rich.console import Console

from conveyor_exporter.demo.run import run_demo


def command(
    *,
    repository: Path = Path("models"),
    epochs: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    seed: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0,
    retrain: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train two small networks on real handwritten digits, and export, verify and publish them.

    `parity` tells whether a digit is odd; `digits` tells which one it is. Models that are in the repository already are
    left as they are. Needs the extras [cpu] (or [gpu]) and [demo] of conveyor-exporter.

    Parameters
    ----------
    repository: Path
        Folder of the model repository; made when it is not there.
    epochs: int
        How often a network sees all training digits, instead of its own number.
    seed: int
        Decides the split into training and test digits, the first weights and the order of training.
    retrain: bool
        Train also what is in the repository already, and publish it as a new version.
    """
    run_demo(Console(), repository, epochs, seed, retrain)
