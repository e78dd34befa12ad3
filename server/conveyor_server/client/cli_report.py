"""What `conveyor-client` prints: tables for people, JSON for programs. Asks nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conveyor_server.client.descriptions import ModelDescription, ModelState, ModelStatistics, ServerDescription
from conveyor_server.client.labels import Prediction
from conveyor_server.core.model import TensorSpec

console = Console()
errors = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True)
class Answer:
    """What the model said of one image."""

    image: str
    path: Path
    prediction: Prediction | None
    """None where the model is no classifier."""
    outputs: dict[str, object]
    """The numbers of each output, as lists."""

    @property
    def true_label(self) -> str:
        """The name of the folder that the image is in."""
        return self.path.absolute().parent.name

    @property
    def right(self) -> bool:
        """Whether the label that was predicted is the folder's."""
        return self.prediction is not None and self.prediction.label == self.true_label


def print_error(error: Exception | str) -> None:
    """One line on standard error."""
    errors.print(f"conveyor-client: {error}", style="red", markup=False, highlight=False)


def print_warning(text: str) -> None:
    """One line on standard error."""
    errors.print(f"Warning: {text}", style="yellow", markup=False, highlight=False)


def print_answers_as_json(answers: Sequence[Answer], with_truth: bool) -> None:
    """One line for each image."""
    for answer in answers:
        truth = {"true_label": answer.true_label} if with_truth else {}
        predicted = asdict(answer.prediction) if answer.prediction else {}
        _print_json({"image": answer.image, **truth, **predicted, "outputs": answer.outputs})


def print_answers(answers: Sequence[Answer], with_truth: bool) -> None:
    """A table of predictions."""
    table = Table("picture", *(["true label"] if with_truth else []), "predicted label", "probability")
    for answer in answers:
        assert answer.prediction is not None, "A table has predictions only. This is a bug."
        truth = [answer.true_label] if with_truth else []
        probability = f"{answer.prediction.probability:.4f}"
        style = "red" if with_truth and not answer.right else None
        _add(table, answer.image, *truth, answer.prediction.label, probability, style=style)
    console.print(table)
    if with_truth:
        console.print(f"{sum(answer.right for answer in answers)} of {len(answers)} right")


def print_status(
    server: ServerDescription,
    url: str,
    ready: bool,
    models: Sequence[ModelState],
    statistics: Sequence[ModelStatistics],
    as_json: bool,
) -> None:
    """The state of a server and of its models."""
    counted = {(one.name, one.version): one for one in statistics}
    if as_json:
        rows = [
            asdict(model) | ({"statistics": asdict(counted[key])} if key in counted else {})
            for model in models
            for key in [(model.name, model.version)]
        ]
        _print_json({"url": url, "ready": ready, "server": asdict(server), "models": rows})
        return
    console.print(f"{server.name} {server.version} at {url}: {'ready' if ready else 'not ready'}")
    console.print(f"extensions: {', '.join(server.extensions)}")
    table = Table("model", "version", "state", "requests", "failed", "mean ms", "reason")
    for model in models:
        one = counted.get((model.name, model.version))
        numbers = ("", "", "")
        if one is not None:
            mean = f"{one.request_seconds / one.requests * 1000:.2f}" if one.requests else ""
            numbers = (str(one.requests), str(one.failures), mean)
        _add(table, model.name, model.version, model.state, *numbers, model.reason)
    console.print(table)


def print_description(model: ModelDescription, as_json: bool) -> None:
    """What a model takes and gives."""
    if as_json:
        _print_json(asdict(model) | {"labels": model.labels, "parameters": dict(model.parameters)})
        return
    batch = f", at most {model.max_batch_size} images a request" if model.max_batch_size else ""
    console.print(f"{model.name} version {model.version}{batch}")
    table = Table("", "name", "datatype", "shape")
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            _add(table, kind, tensor.name, tensor.datatype, _shape(tensor))
    console.print(table)
    if model.labels:
        console.print(f"labels: {', '.join(model.labels)}", markup=False, highlight=False)
    for name, value in sorted(model.parameters.items()):
        console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)


def _add(table: Table, *cells: str, style: str | None = None) -> None:
    """A row of texts that are shown as they are, brackets included."""
    table.add_row(*map(Text, cells), style=style)


def _shape(tensor: TensorSpec) -> str:
    return f"[{', '.join('any' if size < 0 else str(size) for size in tensor.shape)}]"


def _print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)
