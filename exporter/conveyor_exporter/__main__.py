"""Owns the command line: commands, exit codes, errors as one line. Loads nothing heavy before a command needs it."""

import importlib.metadata
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from rich.console import Console

from conveyor_exporter.commands import demo, diff, inspect, keras, samples, torch_module, train
from conveyor_exporter.errors import ExporterError

OK, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="conveyor-export",
    help="Train small image classifiers and publish them as verified ONNX files in a model repository.",
    version=lambda: importlib.metadata.version("conveyor-exporter"),
    suppress_keyboard_interrupt=False,  # run() says what an interruption means here
)


for module in (demo, diff, inspect, keras, samples, torch_module, train):
    app.command(module.command, name=module.__name__.rpartition(".")[2].removesuffix("_module"))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code, or: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    errors = Console(stderr=True)
    app.error_console = errors
    try:
        code = app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return BAD_USAGE
    except ExporterError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return FAILED
    except KeyboardInterrupt:
        errors.print("interrupted; what was not finished is not published", markup=False, highlight=False)
        return INTERRUPTED
    return code if isinstance(code, int) else OK


def main() -> None:
    """Run the command that the shell gave, and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
