"""The command `conveyor-client`: predictions for images in files, and the state of a server and its models."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.progress import track

from conveyor_server import __version__
from conveyor_server.client import cli_report as report
from conveyor_server.client.cli_server import Server
from conveyor_server.client.descriptions import ModelStatistics
from conveyor_server.client.errors import AccessDenied, CallError, NotSupported, Unavailable, Unreachable

if TYPE_CHECKING:
    from conveyor_server.client.cli_predict import Answered

_P = ParamSpec("_P")

Model = Annotated[str, Parameter(help="Name of the model.")]
Version = Annotated[str, Parameter(help="Version of the model; the server's choice if left out.")]
Json = Annotated[bool, Parameter(help="Print JSON, for programs.")]
_HERE = Server()

command_line = App(
    name="conveyor-client",
    help="Ask a running conveyor-server for predictions, or how it is.",
    version=__version__,
    default_parameter=Parameter(negative=""),
)


def _reports_errors(command: Callable[_P, int]) -> Callable[_P, int]:
    """One line for what went wrong, and exit code 1."""

    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except (CallError, TypeError, ValueError) as error:
            report.print_error(error)
            if isinstance(error, Unreachable):
                report.errors.print("Start one with: conveyor-server --repository models")
            return 1

    return run


@command_line.command
@_reports_errors
def predict(
    model: Model,
    images: Annotated[
        list[Path],
        Parameter(help="Picture files, folders of them, or .npy files with arrays as the model takes them."),
    ],
    *,
    version: Version = "",
    batch_size: Annotated[
        int, Parameter(validator=Number(gt=0), help="Images in one request; fewer where they are large.")
    ] = 64,
    json: Json = False,
    show: Annotated[bool, Parameter(help="Show each picture, where the terminal has colours.")] = False,
    true_label_from_folder: Annotated[
        bool, Parameter(help="Each picture's folder is named after its true label: show it, and count what is right.")
    ] = False,
    server: Server = _HERE,
) -> int:
    """Sends images to a model and prints label and probability of each.

    Pictures become grey or RGB as the model wants them. Another size is resized, with a warning. With --json there is a
    line for each image as soon as it is answered. Where an image cannot be read, the others are answered still, and the
    exit code is 1.
    """
    # These need Pillow, which the other commands do not.
    from conveyor_server.client.cli_predict import is_classifier, predict_batches, print_notes
    from conveyor_server.client.image_files import find_batches

    answers: list[report.Answer] = []
    problems = 0
    with server.client() as client:
        client.live()  # says at once, and not after the retries of the next call, that there is no server
        described = client.describe(model, version)
        batches = find_batches(images, described, batch_size)
        if not json and not is_classifier(described):
            raise ValueError(f"Model '{model}' is no classifier, whose output is [batch, classes]; --json prints it.")
        begin = time.perf_counter()
        for answered in _with_progress(predict_batches(client, described, version, batches), len(batches), json):
            problems += len(answered.loaded.problems)
            print_notes(answered.loaded, show)
            if json:
                report.print_answers_as_json(answered.answers, true_label_from_folder)
            else:
                answers += answered.answers
        seconds = answered.seconds if len(batches) == 1 else time.perf_counter() - begin
    if answers:
        report.print_answers(answers, true_label_from_folder)
        requests = "one request" if len(batches) == 1 else f"{len(batches)} requests"
        name = f"{described.name} version {described.version}"
        report.console.print(f"{len(answers)} picture(s) in {requests} to {name}: {seconds * 1000:.1f} ms")
    return 1 if problems else 0


@command_line.command
@_reports_errors
def status(
    *,
    wait: Annotated[
        float, Parameter(validator=Number(gte=0), help="Seconds to wait for the server to become ready.")
    ] = 0.0,
    json: Json = False,
    server: Server = _HERE,
) -> int:
    """Shows the server, its models, their versions, and whether they answer. Exit code 1 unless the server is ready."""
    with server.client() as client:
        if wait:
            with suppress(Unavailable):  # shown below as what it is
                client.wait_ready(timeout=wait)
        description, ready, models = client.server(), client.ready(), client.models()
        statistics: list[ModelStatistics] = []
        with suppress(NotSupported, AccessDenied):  # an extension of the protocol, and not for everybody
            statistics = client.statistics()
    report.print_status(description, server.url, ready, models, statistics, json)
    return 0 if ready else 1


@command_line.command
@_reports_errors
def describe(model: Model, /, *, version: Version = "", json: Json = False, server: Server = _HERE) -> int:
    """Shows what a model takes and gives, its labels, and what its file says of itself."""
    with server.client() as client:
        client.live()
        report.print_description(client.describe(model, version), json)
    return 0


@command_line.command
@_reports_errors
def load(model: Model, /, *, server: Server = _HERE) -> int:
    """Has the server load a model, or load it again.

    The server must run with --model-control explicit and --allow-admin.
    """
    with server.client() as client:
        client.load(model)
    report.console.print(f"{model} is loaded.", markup=False)
    return 0


@command_line.command
@_reports_errors
def unload(model: Model, /, *, server: Server = _HERE) -> int:
    """Has the server take a model out of service; see load."""
    with server.client() as client:
        client.unload(model)
    report.console.print(f"{model} is unloaded.", markup=False)
    return 0


def _with_progress(answered: Iterator["Answered"], requests: int, json: bool) -> Iterable["Answered"]:
    """A bar on standard error, where someone may look at it and it does not run into the output."""
    quiet = requests < 2 or not report.errors.is_terminal or (json and report.console.is_terminal)
    return track(answered, "predicting", requests, console=report.errors, transient=True, disable=quiet)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 the server or an image failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    try:
        sys.exit(command_line(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter still flushes it
        sys.exit(1)


if __name__ == "__main__":
    main()
