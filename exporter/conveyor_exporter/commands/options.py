"""Owns the flags that all exporting commands share. No command itself."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators

Fraction = Annotated[float, Parameter(validator=validators.Number(gt=0, lt=1))]


def parse_labels(text: str) -> tuple[str, ...]:
    """Return the labels in `cat,dog`, or in a JSON list where a label has a comma.

    Raises:
        ValueError: it begins like a JSON list and is none of strings.
    """
    if not text.lstrip().startswith("["):
        return tuple(label.strip() for label in text.split(","))
    labels = json.loads(text)
    if not all(isinstance(label, str) for label in labels):
        raise ValueError("a JSON list of labels must hold strings.")
    return tuple(labels)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a model is exported.

    Attributes:
        name: Name of the model in the repository.
        repository: Folder of the model repository; made when it is not there.
        labels: Names of the classes, separated by commas; of a model that answers yes or no the second means yes.
            Class numbers stand in.
        threshold: Probability above which the answer is yes (models with one output).
        input_range: Smallest and largest input value that the model was trained on.
    """

    name: str
    repository: Path = Path("models")
    labels: str | None = None
    threshold: Fraction = 0.5
    input_range: tuple[float, float] = (0.0, 1.0)

    def keywords(self) -> dict[str, Any]:
        """Return the keyword arguments of `pipeline.export` that these flags stand for, `repository` among them.

        Raises:
            InvalidArgument: the labels cannot be read.
        """
        from conveyor_exporter.errors import InvalidArgument

        try:
            labels = None if self.labels is None else parse_labels(self.labels)
        except ValueError as error:
            raise InvalidArgument(f"cannot read the labels {self.labels!r}: {error}") from error
        return {
            "name": self.name,
            "repository": self.repository,
            "labels": labels,
            "threshold": self.threshold,
            "input_range": self.input_range,
        }
