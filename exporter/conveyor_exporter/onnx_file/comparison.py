"""Owns the differences between two ONNX files: signature, metadata, operators, weights. Knows onnx only."""

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.onnx_file.inspection import describe_value


@dataclass(frozen=True)
class Difference:
    """One thing in which two files differ.

    Attributes:
        kind: `signature`, `metadata`, `operators`, `weights` or `other`.
        what: the name of the thing.
        first: how it is in the first file; empty when it is not there.
        second: how it is in the second file.
        largest: largest absolute difference of two weights of the same shape, else None.
    """

    kind: str
    what: str
    first: str
    second: str
    largest: float | None = None


def differences(first: onnx.ModelProto, second: onnx.ModelProto) -> tuple[Difference, ...]:
    """Return all differences between two files; none when they say the same, in whatever order of constants.

    Raises:
        ModelFileRefused: a weight cannot be read.
    """
    found = [
        *_between("signature", _signature(first), _signature(second)),
        *_between("metadata", _metadata(first), _metadata(second)),
        *_operators(first, second),
        *_weights(first, second),
    ]
    if _rest(first) != _rest(second):
        found.append(Difference("other", "parts that are not shown here", "", ""))
    return tuple(found)


def _between(kind: str, first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[Difference]:
    for name in dict.fromkeys((*first, *second)):
        if first.get(name) != second.get(name):
            yield Difference(kind, name, first.get(name, ""), second.get(name, ""))


def _signature(model: onnx.ModelProto) -> dict[str, str]:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    values = {f"input {place}": value for place, value in enumerate(inputs)}
    values |= {f"output {place}": value for place, value in enumerate(model.graph.output)}
    versions = {f"opset {entry.domain or 'ai.onnx'}": str(entry.version) for entry in model.opset_import}
    signature = {name: str(describe_value(value)) for name, value in values.items()}
    return signature | versions | {"IR version": str(model.ir_version)}


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    producer = {"producer": f"{model.producer_name} {model.producer_version}".strip()}
    return producer | {entry.key: entry.value for entry in model.metadata_props}


def _operators(first: onnx.ModelProto, second: onnx.ModelProto) -> Iterator[Difference]:
    """Yield stretches of nodes that differ, each as it is in both files."""
    before, after = ([_in_words(node) for node in model.graph.node] for model in (first, second))
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        if tag != "equal":
            old, new = "; ".join(before[start:end]), "; ".join(after[other_start:other_end])
            yield Difference("operators", f"node {start}", old, new)


def _in_words(node: onnx.NodeProto) -> str:
    """Return a node as text; what has no short text, such as a tensor among the attributes, is told by its hash."""
    attributes = sorted(node.attribute, key=lambda item: item.name)
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    settings = ", ".join(map(_attribute, attributes))
    return f"{node.name}: {', '.join(node.output)} = {operator}({', '.join(node.input)}) {settings}".rstrip()


def _attribute(attribute: onnx.AttributeProto) -> str:
    kind = onnx.AttributeProto
    if attribute.type in (kind.INT, kind.INTS, kind.FLOAT, kind.FLOATS, kind.STRING, kind.STRINGS):
        value = onnx.helper.get_attribute_value(attribute)
        plain = onnx.helper.make_attribute(attribute.name, value, attr_type=attribute.type)
        if plain == attribute:
            return f"{attribute.name}={value!r}"
    digest = hashlib.sha256(attribute.SerializeToString(deterministic=True)).hexdigest()
    return f"{attribute.name}=#{digest[:16]}"


def _weights(first: onnx.ModelProto, second: onnx.ModelProto) -> Iterator[Difference]:
    before, after = ({tensor.name: tensor for tensor in model.graph.initializer} for model in (first, second))
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        words = tuple("" if tensor is None else _kind(tensor) for tensor in (old, new))
        if words[0] != words[1] or old is None or new is None:
            yield Difference("weights", name, words[0], words[1])
        elif old.SerializeToString(deterministic=True) != new.SerializeToString(deterministic=True):
            largest = _largest(_array(old), _array(new))
            if largest != 0:  # else they are only written in another way
                yield Difference("weights", name, words[0], words[1], largest)


def _kind(tensor: onnx.TensorProto) -> str:
    return f"{onnx.TensorProto.DataType.Name(tensor.data_type).lower()} {list(tensor.dims)}"


def _largest(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the largest absolute difference, nan when only one is nan somewhere; None of what are no numbers."""
    if first.dtype.kind in "OSU":
        return 0.0 if np.array_equal(first, second) else None
    first, second = first.astype(np.float64), second.astype(np.float64)
    apart = ~((first == second) | (np.isnan(first) & np.isnan(second)))
    return float(np.max(np.abs(first[apart] - second[apart]), initial=0.0))


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # a broken tensor fails in many ways
        raise ModelFileRefused(f"the weight {tensor.name!r} cannot be read; the file is broken.") from error


def _rest(model: onnx.ModelProto) -> bytes:
    """Return what is left of a file when everything is taken away that has been compared or only describes."""
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    for name in ("ir_version", "opset_import", "producer_name", "producer_version", "metadata_props", "doc_string"):
        rest.ClearField(name)
    for name in ("node", "initializer", "input", "output", "value_info", "name", "doc_string", "metadata_props"):
        rest.graph.ClearField(name)
    return rest.SerializeToString(deterministic=True)
