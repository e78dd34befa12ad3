"""The command `conveyor-client`: predictions for picture files, and the state of a server."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

from conveyor_server import __version__
from conveyor_server.client.connection import Client, PredictionError
from conveyor_server.client.labels import Prediction, read_predictions

Url = Annotated[str, Parameter(env_var="CONVEYOR_URL", help="host:port of the server's gRPC service.")]
Timeout = Annotated[float, Parameter(validator=Number(gt=0), help="Seconds that a call may take.")]

command_line = App(
    name="conveyor-client", help="Ask a running conveyor-server for predictions, or how it is.", version=__version__
)
_console = Console()
_errors = Console(stderr=True, soft_wrap=True)


@command_line.command
def predict(
    model: Annotated[str, Parameter(help="Name of the model.")],
    pictures: Annotated[list[Path], Parameter(help="Picture files, sent in one batch.")],
    *,
    url: Url = "127.0.0.1:8001",
    timeout: Timeout = 10.0,
    version: Annotated[str, Parameter(help="Version of the model; the server's choice if left out.")] = "",
    show: Annotated[bool, Parameter(help="Show each picture, where the terminal has colours.")] = False,
    true_label_from_folder: Annotated[
        bool, Parameter(help="Each picture's folder is named after its true label: show it, and count what is right.")
    ] = False,
) -> int:
    """Sends pictures to a model and prints label and probability of each.

    Pictures become grey or RGB as the model wants them. Another size is resized, with a warning.
    """
    from conveyor_server.client import pictures as reader  # needs Pillow, which `status` does not

    try:
        with Client(url, timeout=timeout) as client:
            description = client.describe(model, version)
            shape = reader.picture_shape(description)
            batch = [reader.read_picture(path, shape) for path in pictures]
            for path, picture in zip(pictures, batch, strict=True):
                if picture.resized_from:
                    _errors.print(_resized_text(path, picture.resized_from, shape), style="yellow")
            start = time.perf_counter()
            probabilities = client.predict(model, reader.as_input(batch, description), version=version)
            milliseconds = (time.perf_counter() - start) * 1000
            predictions = read_predictions(probabilities, description.labels, description.threshold)
    except (PredictionError, reader.PictureError, ValueError) as error:
        return _failed(error)
    if show and _console.is_terminal:
        for path, picture in zip(pictures, batch, strict=True):
            _console.print(reader.render(picture), str(path))
    _print_predictions(pictures, predictions, true_label_from_folder)
    name = f"{description.name} version {description.version}"
    _console.print(f"{len(batch)} picture(s) in one request to {name}: {milliseconds:.1f} ms")
    return 0


@command_line.command
def status(*, url: Url = "127.0.0.1:8001", timeout: Timeout = 10.0) -> int:
    """Shows the server, its models, their versions, and whether they answer. Exit code 1 unless the server is ready."""
    try:
        with Client(url, timeout=timeout) as client:
            server, ready, models = client.server(), client.ready(), client.models()
    except PredictionError as error:
        return _failed(error)
    _console.print(f"{server.name} {server.version} at {url}: {'ready' if ready else 'not ready'}")
    _console.print(f"extensions: {', '.join(server.extensions)}")
    table = Table("model", "version", "state", "reason")
    for model in models:
        table.add_row(model.name, model.version, model.state, model.reason)
    _console.print(table)
    return 0 if ready else 1


def _print_predictions(pictures: list[Path], predictions: list[Prediction], with_truth: bool) -> None:
    table = Table("picture", *(["true label"] if with_truth else []), "predicted label", "probability")
    right = 0
    for path, prediction in zip(pictures, predictions, strict=True):
        truth = path.absolute().parent.name
        right += truth == prediction.label
        style = "red" if with_truth and truth != prediction.label else None
        table.add_row(
            str(path), *([truth] if with_truth else []), prediction.label, f"{prediction.probability:.4f}", style=style
        )
    _console.print(table)
    if with_truth:
        _console.print(f"{right} of {len(predictions)} right")


def _failed(error: Exception) -> int:
    _errors.print(f"conveyor-client: {error}", style="red", markup=False)
    if isinstance(error, PredictionError) and "failed to connect" in str(error):
        _errors.print("Is a server running there? Start one with: conveyor-server --repository models")
    return 1


def _resized_text(path: Path, found: tuple[int, int], wanted: tuple[int, int, int]) -> str:
    return (
        f"Warning: {path} is {found[1]}x{found[0]} pixels and was resized to the model's {wanted[1]}x{wanted[0]}; "
        "details may be lost."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 the server or a picture failed, 2 wrong usage."""
    sys.exit(command_line(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    main()
