"""Owns the arguments and the help of `conveyor-export samples`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators
from rich.console import Console


def command(
    folder: Path,
    *,
    count: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 10,
    seed: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0,
) -> None:
    """Write a few handwritten digits that the demo models have not seen as pictures.

    The files are `FOLDER/<digit>/<number>.png`.

    Parameters
    ----------
    folder: Path
        Where to write; made when it is not there.
    count: int
        How many pictures.
    seed: int
        The seed that the demo models were trained with; it decides which digits were held out.
    """
    from conveyor_exporter.demo.samples import write_samples

    paths = write_samples(folder, count, seed)
    Console().print(f"{len(paths)} pictures of digits in {folder}", markup=False, highlight=False, soft_wrap=True)
