"""Owns the flags that all exporting commands share. No command itself."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, validators

from conveyor_exporter.errors import InvalidArgument

Fraction = Annotated[float, Parameter(validator=validators.Number(gt=0, lt=1))]
Points = Annotated[float, Parameter(validator=validators.Number(gte=0, lt=100))]
PRECISION = Group("Precision (float32, unless one is chosen)", validator=validators.mutually_exclusive)
Precision = Annotated[bool, Parameter(negative="", group=PRECISION)]


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


def parse_shape(text: str) -> tuple[int, ...]:
    """Return the numbers in `28,28,1`.

    Raises:
        InvalidArgument: they are not positive integers.
    """
    numbers = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in numbers):
        raise InvalidArgument(f"a shape is written 28,28,1 (height, width, channels); got {text!r}.")
    return tuple(map(int, numbers))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a model is exported.

    Attributes:
        name: Name of the model in the repository; if not given, that of what it is made from.
        repository: Folder of the model repository; made when it is not there.
        labels: Names of the classes, separated by commas; of a model that answers yes or no the second means yes.
            Class numbers stand in.
        threshold: Probability above which the answer is yes (models with one output).
        input_range: Smallest and largest input value that the model was trained on.
        input_dtype: What a client sends. uint8 is scaled to the input range inside the file: a quarter of the bytes.
        logits: Give a second output, logits, in front of the last sigmoid or softmax.
        float16: Calculate in float16, for a GPU. Needs labelled data.
        int8: Calculate in int8. Needs at least 20 labelled pictures: some calibrate it, what it costs is measured on
            the others. The command train calibrates with pictures that it trained on.
        max_drop: How many points of accuracy on the labelled data the file may lose; else nothing is published.
        opset: Version of the ONNX operators.
        ir_version: Version of the ONNX file's structure; the lowest that fits the opset, if not given.
    """

    name: str | None = None
    repository: Path = Path("models")
    labels: str | None = None
    threshold: Fraction = 0.5
    input_range: Annotated[tuple[float, float], Parameter(negative="")] = (0.0, 1.0)
    input_dtype: Literal["float32", "uint8"] = "float32"
    logits: Annotated[bool, Parameter(negative="")] = False
    float16: Precision = False
    int8: Precision = False
    max_drop: Points = 1.0
    opset: int = 18
    ir_version: int | None = None

    def keywords(self, own_name: str) -> dict[str, Any]:
        """Return the keyword arguments of `pipeline.export` that these flags stand for, `repository` among them.

        Args:
            own_name: what the model is called when no name is given.

        Raises:
            InvalidArgument: the labels cannot be read.
        """
        try:
            labels = None if self.labels is None else parse_labels(self.labels)
        except ValueError as error:
            raise InvalidArgument(f"cannot read the labels {self.labels!r}: {error}") from error
        return {
            "name": own_name if self.name is None else self.name,
            "repository": self.repository,
            "labels": labels,
            "threshold": self.threshold,
            "input_range": self.input_range,
            "input_dtype": self.input_dtype,
            "logits": self.logits,
            "precision": "float16" if self.float16 else "int8" if self.int8 else "float32",
            "max_drop": self.max_drop / 100,
            "opset": self.opset,
            "ir_version": self.ir_version,
        }


DEFAULTS = ExportOptions()
