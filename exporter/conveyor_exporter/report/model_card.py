"""Owns the page that is published beside a model: what it is, how good, what it looks at, and how to ask it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from conveyor_exporter.evaluation import evaluation_mode
from conveyor_exporter.layers import Conv2D
from conveyor_exporter.network import Network
from conveyor_exporter.onnx_file.metadata import Task
from conveyor_exporter.pictures.labelled_data import LabelledData
from conveyor_exporter.pipeline import Beside, Evidence
from conveyor_exporter.report import figures
from conveyor_exporter.report.answers import Answers
from conveyor_exporter.report.markdown import percent, plain, table
from conveyor_exporter.training.trainer import History

FILE_NAME = "README.md"
MOST_MISTAKES = 12
MOST_CLASSES = 100  # rows of the table of classes


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside what the model and its file say themselves.

    Attributes:
        about: a sentence on what the model is for.
        test: labelled pictures that the model was not trained on.
        sizes: how many pictures each part of the data has, by the name of the part.
        data: lines about the data: where they come from, what was done to them.
        settings: how it was trained, in words.
        history: the values of each epoch.
    """

    about: str
    test: LabelledData
    sizes: Mapping[str, int] = field(default_factory=dict)
    data: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    history: History | None = None


def card(model: Network, facts: CardFacts) -> Beside:
    """Return what makes the card's files, README.md and PNG figures, for `export(beside=…)`."""
    return lambda evidence: make_card(model, facts, evidence)


def make_card(model: Network, facts: CardFacts, evidence: Evidence) -> dict[str, bytes]:
    """Return the card's files with their bytes; the same for the same model, data and evidence."""
    answers = Answers.of(model, facts.test, evidence.metadata)
    pictures = {"confusion_matrix.png": figures.confusion_matrix(answers.confusion(), answers.labels)}
    sections = [_head(facts, evidence), _quality(answers), _data(facts), _training(facts)]
    if facts.history is not None and facts.history.epoch:
        pictures["learning_curves.png"] = figures.learning_curves(facts.history.history, facts.history.best_epoch)
    convolution = next((layer for layer in model.layers if isinstance(layer, Conv2D)), None)
    if convolution is not None:
        row = answers.exemplary()
        maps = _activations(model, convolution, facts.test.images[row])
        title = f"a test picture:\n{answers.labels[facts.test.labels[row]]}"
        pictures["filters.png"] = figures.filters(convolution.get_weights()[0])
        pictures["activations.png"] = figures.activation_maps(answers.pictures[row], maps, title)
        sections.append(_sight(convolution, maps))
    if mistakes := answers.mistakes(MOST_MISTAKES):
        pictures["mistakes.png"] = figures.worst_mistakes(mistakes)
        sections.append(_mistakes(answers, len(mistakes)))
    sections += [_proof(evidence), _use(evidence)]
    return {FILE_NAME: "\n\n".join(filter(None, sections)).encode() + b"\n", **dict(sorted(pictures.items()))}


def _activations(model: Network, convolution: Conv2D, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the convolution gives for one picture, [height, width, filters]."""
    tensor = torch.from_numpy(image[None]).to(next(model.parameters()).device)
    with evaluation_mode(model):
        for layer in model.layers:
            tensor = layer(tensor)
            if layer is convolution:
                break
    return np.asarray(tensor[0].cpu().numpy())


def _head(facts: CardFacts, evidence: Evidence) -> str:
    metadata = evidence.metadata
    low, high = metadata.input_range
    rows = {
        "task": str(metadata.task).replace("_", " "),
        "labels": ", ".join(map(plain, metadata.labels[:MOST_CLASSES])),
        "input values": f"{low:g} to {high:g}, channels last",
        "parameters": f"{sum(layer.parameters for layer in evidence.layers):,}",
        "layers": ", ".join(layer.name for layer in evidence.layers),
        "file": f"`model.onnx`, {len(evidence.content):,} bytes, SHA-256 `{evidence.sha256}`",
    }
    if metadata.task is Task.BINARY:
        rows["threshold"] = f"{plain(metadata.labels[1])} above a probability of {metadata.threshold:g}"
    return f"# {evidence.name}\n\n{plain(facts.about)}\n\n{table(('', ''), rows.items())}"


def _quality(answers: Answers) -> str:
    confusion = answers.confusion()
    right, said, there = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
    rows = [
        (
            plain(label),
            f"{there[n]:,}",
            f"{right[n]:,}",
            percent(int(right[n]), int(there[n])),
            percent(int(right[n]), int(said[n])),
        )
        for n, label in enumerate(answers.labels[:MOST_CLASSES])
    ]
    columns = ("class", "test pictures", "recognised", "recall", "precision")
    return (
        "## How good it is\n\n"
        f"It is right about {int(answers.right.sum()):,} of {len(answers.true):,} pictures that it was not trained on: "
        f"{answers.right.mean():.1%}. Recall is the share of a class that is recognised; precision the share of the "
        f"answers with its name that are true.\n\n{table(columns, rows)}\n\n"
        "![Confusion matrix](confusion_matrix.png)"
    )


def _data(facts: CardFacts) -> str:
    if not (facts.sizes or facts.data):
        return ""
    sizes = table(("part", "pictures"), [(plain(part), f"{size:,}") for part, size in facts.sizes.items()])
    return "\n\n".join(filter(None, ["## Data", sizes if facts.sizes else "", *map(plain, facts.data)]))


def _training(facts: CardFacts) -> str:
    if not facts.settings and facts.history is None:
        return ""
    parts = ["## Training"]
    if facts.settings:
        parts.append(table(("setting", "value"), [(plain(key), plain(value)) for key, value in facts.settings.items()]))
    if facts.history is not None and facts.history.epoch:
        done, best = len(facts.history.epoch), facts.history.best_epoch
        kept = "" if best is None else f", and gave the model the weights after epoch {best + 1}, the best one"
        parts += [f"It ran for {done} epoch{'s' * (done > 1)}{kept}.", "![Learning curves](learning_curves.png)"]
    return "\n\n".join(parts)


def _sight(convolution: Conv2D, maps: NDArray[np.float32]) -> str:
    height, width = convolution.kernel_size
    strongest = maps.mean(axis=(0, 1))
    silent = [str(number) for number in np.flatnonzero(np.abs(maps).max(axis=(0, 1)) <= 1e-6)]
    sentence = f"On this picture filter {int(strongest.argmax())} answers most"
    if silent:
        few = "filters " if len(silent) > 1 else "filter "
        sentence += f", and {few}{', '.join(silent)} not at all: what {'they look' if len(silent) > 1 else 'it looks'} "
        sentence += "for is not there"
    shown = f" The first {figures.MOST_FILTERS} are shown." if convolution.filters > figures.MOST_FILTERS else ""
    return (
        "## What it looks at\n\n"
        f"`{convolution.name}` slides {convolution.filters} small filters of {height}x{width} pixels over the picture. "
        "Each is a pattern that training has found: it answers strongly where the picture is bright under its red "
        f"weights and dark under its blue ones, such as at an edge in one direction.{shown}\n\n"
        "![Filters of the first convolution](filters.png)\n\n"
        "An activation map shows where in the picture a filter finds its pattern: bright places are strong answers. "
        f"{sentence}.\n\n![Activation maps of a test picture](activations.png)"
    )


def _mistakes(answers: Answers, shown: int) -> str:
    wrong = int((~answers.right).sum())
    which = "" if shown == wrong else f", here the {shown} about which it is most sure"
    return (
        f"## Where it is wrong\n\nAbout {wrong:,} of the {len(answers.true):,} test pictures{which}.\n\n"
        "![Mistakes](mistakes.png)"
    )


def _proof(evidence: Evidence) -> str:
    return (
        "## Proof that the file gives the model's answers\n\n"
        "The file ran in ONNX Runtime beside the model, on random, zero, one and test pictures, in several batch "
        f"sizes, with graph optimisations off and on: {evidence.verification}."
    )


def _use(evidence: Evidence) -> str:
    name = evidence.name
    return (
        "## Serve it, and ask it\n\n"
        "With `models` being the model repository, the folder that has this model's folder in it:\n\n"
        "```console\n"
        "conveyor-server --repository models\n"
        f"conveyor-client predict {name} picture.png\n"
        "```\n\n"
        "```python\n"
        "from conveyor_server.client import Client\n\n"
        'with Client("127.0.0.1:8001") as client:\n'
        f'    probabilities = client.predict("{name}", images)  # float32 [batch, height, width, channels]\n'
        "```"
    )
