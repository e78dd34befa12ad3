"""Owns the choices that shape an ONNX file: types at its ends and inside, versions. Knows neither torch nor onnx."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from conveyor_exporter.arguments import did_you_mean, is_integer
from conveyor_exporter.errors import InvalidArgument

_Choice = TypeVar("_Choice", bound=StrEnum)

INPUT_NAME = "image"
BATCH_AXIS = "batch"
LOGITS = "logits"
OPSET = 18
IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""Opset to the IR version of the ONNX release that brought it (ONNX, docs/Versioning.md); a lower one is not allowed.

Opset 18 with IR version 8 is what onnxruntime 1.14 and everything since can load.
"""
HIGHEST_IR_VERSION = 13  # what onnxruntime 1.31 loads


class InputDtype(StrEnum):
    """Type of the values that a client sends."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


class Precision(StrEnum):
    """Type that the file calculates with; its ends are float32 all the same."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


@dataclass(frozen=True)
class FileFormat:
    """How the ONNX file is made.

    Attributes:
        input_dtype: what a client sends; uint8 is scaled to the model's input range inside the graph.
        logits: whether a second output `logits` gives what the last sigmoid or softmax gets.
        precision: what the file calculates with.
        opset: version of the ONNX operators.
        ir_version: version of the file's structure; None takes the lowest that fits the opset.

    Raises:
        InvalidArgument: a value is none of those that can be.
    """

    input_dtype: InputDtype = InputDtype.FLOAT32
    logits: bool = False
    precision: Precision = Precision.FLOAT32
    opset: int = OPSET
    ir_version: int | None = None

    def __post_init__(self) -> None:
        if not is_integer(self.opset) or self.opset not in IR_VERSIONS:
            lowest, highest = min(IR_VERSIONS), max(IR_VERSIONS)
            raise InvalidArgument(f"`opset` must lie between {lowest} and {highest}, got {self.opset!r}.")
        needed, version = IR_VERSIONS[self.opset], self.ir_version
        if version is not None and (not is_integer(version) or not needed <= int(version) <= HIGHEST_IR_VERSION):
            raise InvalidArgument(
                f"`ir_version` must lie between {needed}, which opset {self.opset} needs, and {HIGHEST_IR_VERSION}, "
                f"got {version!r}."
            )

    @classmethod
    def of(
        cls, input_dtype: str, logits: bool, precision: str, opset: int = OPSET, ir_version: int | None = None
    ) -> "FileFormat":
        """Return the format with these names of types.

        Raises:
            InvalidArgument: a name is not known, or a version cannot be.
        """
        dtype = _member(InputDtype, input_dtype, "input_dtype")
        return cls(dtype, logits, _member(Precision, precision, "precision"), opset, ir_version)

    @property
    def ir(self) -> int:
        """The IR version that the file gets."""
        return IR_VERSIONS[self.opset] if self.ir_version is None else self.ir_version


FLOAT32_FILE = FileFormat()


def _member(choices: type[_Choice], value: object, argument: str) -> _Choice:
    known = [str(choice) for choice in choices]
    if str(value) not in known:
        allowed = ", ".join(known)
        raise InvalidArgument(f"`{argument}` must be one of {allowed}; got {value!r}.{did_you_mean(str(value), known)}")
    return choices(str(value))
