"""Owns the reading of an ONNX file that may be anything: from bytes read once, nothing else opened, nothing run."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from conveyor_exporter.errors import ModelFileRefused

LARGEST = 2**31 - 1  # bytes; protocol buffers have no larger messages


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file.

    Attributes:
        path: where it is.
        size: its bytes.
        sha256: SHA-256 of its bytes, in hexadecimal.
        model: what it holds; weights in other files stay where they are.
    """

    path: Path
    size: int
    sha256: str
    model: onnx.ModelProto


def read_model(path: Path) -> ModelFile:
    """Read an ONNX file.

    Raises:
        ModelFileRefused: it cannot be read, is no ONNX file, or keeps weights in other files.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ModelFileRefused(f"{path} is larger than 2 GB, which no ONNX file can be.")
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileRefused(f"cannot read {path}: {error.strerror or error}.") from error
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ModelFileRefused(f"{path} is no ONNX file, or it is broken.") from error
    if not model.graph.node or not model.opset_import:  # nearly any bytes are a message of some unknown fields
        raise ModelFileRefused(f"{path} is no ONNX file: it has no nodes or names no operator set.")
    if _has_broken_text(model):
        raise ModelFileRefused(f"{path} is broken: a name in it is not UTF-8.")
    outside = [tensor.name for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise ModelFileRefused(
            f"{path} keeps weights in other files ({printable(outside[0])!r} and perhaps more), which are not opened. "
            "Save the model as a single file."
        )
    return ModelFile(path, len(content), hashlib.sha256(content).hexdigest(), model)


def _has_broken_text(message: Message) -> bool:
    """Whether some text of a message is none: protobuf takes any bytes for a string of proto2, and gives them back."""
    for field in message.DESCRIPTOR.fields:
        if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE):
            continue
        value = getattr(message, field.name)
        values: Iterable[object]
        if isinstance(value, Message):
            values = [value] if message.HasField(field.name) else []
        else:
            values = [value] if isinstance(value, str | bytes) else value
        if any(_has_broken_text(one) if isinstance(one, Message) else isinstance(one, bytes) for one in values):
            return True
    return False


def printable(text: str) -> str:
    """Return a text from a file with nothing in it that could steer a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)
