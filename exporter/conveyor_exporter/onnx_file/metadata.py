"""Owns what an exported file says about itself, the contract with whoever serves it. Knows nothing of torch or onnx."""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from conveyor_exporter.errors import InvalidArgument
from conveyor_exporter.onnx_file.file_format import InputDtype, Precision

FORMAT_VERSION = "1"


class Task(StrEnum):
    """What the model's answer means."""

    BINARY = "binary_classification"
    MULTICLASS = "multiclass_classification"

    @property
    def output_name(self) -> str:
        """The name of the output tensor."""
        return "probability" if self is Task.BINARY else "probabilities"

    @staticmethod
    def of_units(units: int) -> "Task":
        """Return the task of a model with so many outputs: one means yes or no."""
        return Task.BINARY if units == 1 else Task.MULTICLASS


@dataclass(frozen=True)
class Source:
    """The file that an export was made from.

    Attributes:
        format: what kind of file it is: `keras`, `torch` or `conveyor`.
        sha256: SHA-256 of its bytes, in hexadecimal.
    """

    format: str
    sha256: str

    def __post_init__(self) -> None:
        if not self.format or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise InvalidArgument(f"a source is a format and a SHA-256 in hexadecimal, got {self!r}.")

    @classmethod
    def of(cls, format: str, content: bytes) -> "Source":
        """Return the source with these bytes."""
        return cls(format, hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Metadata:
    """What an exported file says about itself.

    Attributes:
        task: what the answer means.
        labels: names of the classes; for a binary task two, the second being the one whose probability is given.
        threshold: probability above which the second label is meant (binary only).
        input_range: smallest and largest value that the model was trained on.
        training_metrics: numbers known from training, such as `test_accuracy`.
        source: the file that the model was read from, when there is one.
        input_shape: shape of one sample, without the batch axis; None leaves out how to make it from a picture.
        input_dtype: what a client sends; uint8 0 to 255 stands for the input range.
        precision: what the file calculates with.
    """

    task: Task
    labels: tuple[str, ...]
    threshold: float = 0.5
    input_range: tuple[float, float] = (0.0, 1.0)
    training_metrics: Mapping[str, float] = field(default_factory=dict)
    source: Source | None = None
    input_shape: tuple[int, ...] | None = None
    input_dtype: InputDtype = InputDtype.FLOAT32
    precision: Precision = Precision.FLOAT32

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or not all(isinstance(label, str) for label in self.labels):
            raise InvalidArgument(f"`labels` must be different strings, got {list(self.labels)}.")
        if not 0 < self.threshold < 1:
            raise InvalidArgument(f"`threshold` must lie between 0 and 1, got {self.threshold!r}.")
        low, high = self.input_range
        if not low < high:
            raise InvalidArgument(f"`input_range` must be (smallest, largest), got {self.input_range!r}.")

    @classmethod
    def for_units(
        cls,
        units: int,
        labels: Sequence[str],
        threshold: float = 0.5,
        input_range: tuple[float, float] = (0.0, 1.0),
        training_metrics: Mapping[str, float] | None = None,
        source: Source | None = None,
    ) -> "Metadata":
        """Return the metadata of a model with so many outputs.

        Raises:
            InvalidArgument: the number of labels does not fit, or a value cannot be.
        """
        task = Task.of_units(units)
        needed = 2 if task is Task.BINARY else units
        if isinstance(labels, str) or len(labels) != needed:
            reason = "no and yes, in this order" if task is Task.BINARY else "one for each unit of the last layer"
            raise InvalidArgument(f"`labels` must be {needed} names ({reason}), got {labels!r}.")
        return cls(task, tuple(labels), threshold, input_range, dict(training_metrics or {}), source)

    @property
    def sent_range(self) -> tuple[float, float]:
        """Smallest and largest value that a client sends."""
        low, high = self.input_range
        return (0.0, 255.0) if self.input_dtype is InputDtype.UINT8 else (float(low), float(high))

    def _preprocessing(self, height: int, width: int, channels: int) -> dict[str, object]:
        """Return what a client does with a picture: size, colours, and `pixel * scale + offset`, pixel 0 to 255."""
        low, high = self.sent_range
        return {
            "color": {1: "grayscale", 3: "RGB", 4: "RGBA"}.get(channels),
            "dtype": str(self.input_dtype),
            "height": height,
            "layout": "NHWC",
            "offset": low,
            "scale": (high - low) / 255,
            "width": width,
        }

    def to_properties(self) -> dict[str, str]:
        """Return the key-value pairs that go into the file, sorted by key."""
        properties = {
            "conveyor.exporter_version": importlib.metadata.version("conveyor-exporter"),
            "conveyor.format_version": FORMAT_VERSION,
            "conveyor.input.dtype": str(self.input_dtype),
            "conveyor.input.layout": "NHWC",
            "conveyor.input.range": json.dumps(self.sent_range),
            "conveyor.precision": str(self.precision),
            "conveyor.labels": json.dumps(list(self.labels), ensure_ascii=False),
            "conveyor.task": str(self.task),
            "conveyor.training.metrics": json.dumps(dict(self.training_metrics), sort_keys=True),
        }
        if self.task is Task.BINARY:
            properties["conveyor.threshold"] = str(float(self.threshold))
        if self.input_shape is not None and len(self.input_shape) == 3:
            properties["conveyor.preprocessing"] = json.dumps(self._preprocessing(*self.input_shape), sort_keys=True)
        if self.source is not None:
            properties["conveyor.source.format"] = self.source.format
            properties["conveyor.source.sha256"] = self.source.sha256
        return dict(sorted(properties.items()))
