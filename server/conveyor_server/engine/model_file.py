"""Reads a model file and refuses what must not reach the runtime. Knows ONNX files, not how to run them.

A file is read once: what was checked and hashed is what runs.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from conveyor_server.core.errors import ModelRejected
from conveyor_server.engine.repository_files import RepositoryFiles

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators of ONNX itself and those that onnxruntime brings along. Others would need a library of custom code."""
MAX_FILE_BYTES = 2**31 - 1
"""The size that one protobuf message, and so a single-file ONNX model, can have."""


@dataclass(frozen=True)
class ModelFile:
    """The bytes of an accepted model, and what the server wants to know of them."""

    content: bytes
    sha256: str
    metadata: dict[str, str]
    """`metadata_props` of the model."""


def read_model_file(path: Path, files: RepositoryFiles) -> ModelFile:
    """Reads and checks one single-file ONNX model of a repository.

    Raises:
        ModelRejected: not there, outside the repository, too large, not ONNX, tensors outside the file, or operators of
            a foreign domain.
    """
    try:
        content = files.read(path, MAX_FILE_BYTES)
    except OSError as error:
        raise ModelRejected(f"{path.name} cannot be read: {error.strerror}.") from error
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelRejected(f"{path.name} is not an ONNX model, or was cut off ({len(content)} bytes).") from error
    if not model.graph.output:
        raise ModelRejected(f"{path.name} has a graph without outputs; an ONNX model has at least one.")
    _refuse_external_data(model)
    _refuse_foreign_operators(model)
    return ModelFile(
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        metadata={item.key: item.value for item in model.metadata_props},
    )


def _refuse_external_data(model: onnx.ModelProto) -> None:
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelRejected(
                f"the tensor '{tensor.name}' is stored outside the model file (external data). Save the model as a "
                "single file: onnx.save(model, path, save_as_external_data=False)."
            )


def _refuse_foreign_operators(model: onnx.ModelProto) -> None:
    functions = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model):
        if node.domain not in ALLOWED_DOMAINS and (node.domain, node.op_type) not in functions:
            allowed = ", ".join(repr(domain) for domain in sorted(ALLOWED_DOMAINS))
            raise ModelRejected(
                f"the operator '{node.op_type}' belongs to the domain '{node.domain}', which is not served; the "
                f"domains served are {allowed}."
            )


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: of the main graph, of the functions, and of the graphs inside a node (If, Loop, Scan)."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for graph in _subgraphs(node):
            waiting += graph.node


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that the file holds or refers to: initialisers and attributes."""
    graphs = [model.graph]
    for node in _nodes(model):
        graphs += _subgraphs(node)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
