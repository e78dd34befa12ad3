"""Owns the command line: commands, exit codes, errors as one line. Loads nothing heavy before a command needs it."""

import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter, validators
from rich.console import Console

from conveyor_exporter.demo import run_demo
from conveyor_exporter.errors import ExporterError

OK, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="conveyor-export",
    help="Train small image classifiers and publish them as verified ONNX files in a model repository.",
    version=lambda: importlib.metadata.version("conveyor-exporter"),
    suppress_keyboard_interrupt=False,  # run() says what an interruption means here
)


@app.command
def demo(
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


@app.command
def samples(
    folder: Path,
    *,
    count: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 10,
    seed: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0,
) -> None:
    """Write a few handwritten digits that the demo models have not seen as pictures: FOLDER/<digit>/<number>.png.

    Parameters
    ----------
    folder: Path
        Where to write; made when it is not there.
    count: int
        How many pictures.
    seed: int
        The seed that the demo models were trained with; it decides which digits were held out.
    """
    from conveyor_exporter.samples import write_samples  # loads numpy, which --help does not need

    paths = write_samples(folder, count, seed)
    Console().print(f"{len(paths)} pictures of digits in {folder}", markup=False, highlight=False, soft_wrap=True)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    errors = Console(stderr=True)
    app.error_console = errors
    try:
        app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return BAD_USAGE
    except ExporterError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return FAILED
    except KeyboardInterrupt:
        errors.print("interrupted; what was not finished is not published", markup=False, highlight=False)
        return INTERRUPTED
    return OK


def main() -> None:
    """Run the command that the shell gave, and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
