"""Owns the order of an export: learn the head, export, verify, publish. Knows each step only by its function."""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from conveyor_exporter.arguments import sample_shape
from conveyor_exporter.errors import ExportFailed, InvalidArgument, VerificationFailed
from conveyor_exporter.evaluation import evaluation_mode
from conveyor_exporter.inspection import LayerDescription, describe_layers
from conveyor_exporter.labelled_data import LabelledData
from conveyor_exporter.metadata import Metadata, Source
from conveyor_exporter.network import Network
from conveyor_exporter.onnx_export import export_onnx, to_bytes
from conveyor_exporter.publish import Published, check_model_name, publish
from conveyor_exporter.verify import LIMIT, Images, Reference, Verification, verify


@dataclass(frozen=True)
class Evidence:
    """What is known about a file that passed verification, for whoever writes about it before it is published.

    Attributes:
        name: the model's name in the repository.
        content: the bytes of the file.
        metadata: what the file says about itself.
        verification: how the file compares with the model.
        layers: the graph's layers, with operators, parameters and cost.
    """

    name: str
    content: bytes
    metadata: Metadata
    verification: Verification
    layers: tuple[LayerDescription, ...]

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


Beside = Callable[[Evidence], Mapping[str, bytes]]
"""Makes the files that are published beside the model: their names with their bytes."""


@dataclass(frozen=True)
class Exported:
    """What `export` did.

    Attributes:
        published: where the file is, its version and its SHA-256.
        verification: how the file compares with the model.
    """

    published: Published
    verification: Verification


def export(
    model: nn.Module,
    repository: str | Path,
    *,
    name: str,
    labels: Sequence[str] | None = None,
    input_shape: Sequence[int] | None = None,
    threshold: float = 0.5,
    input_range: tuple[float, float] = (0.0, 1.0),
    training_metrics: Mapping[str, float] | None = None,
    source: Source | None = None,
    data: LabelledData | None = None,
    beside: Beside | None = None,
    limit: float = LIMIT,
) -> Exported:
    """Export a classifier to ONNX, verify the file against the model, and publish it as the model's next version.

    Args:
        model: a `Sequential`, or any module from float32 [batch, *input_shape] to probabilities [batch, units].
        repository: folder of the model repository; made when it is not there.
        name: the model's name in the repository.
        labels: names of the classes; for a model with one output two, the second meaning yes. Class numbers stand in.
        input_shape: the shape of one sample, without the batch axis; a `Sequential` knows its own.
        threshold: probability above which the answer is yes (models with one output).
        input_range: smallest and largest input value that the model was trained on.
        training_metrics: numbers to store in the file, such as `test_accuracy`.
        source: the file that the model was read from; its hash goes into the file.
        data: pictures with their classes, to verify on beside made-up ones.
        beside: called when the file has passed verification; the files that it returns are published with the model.
        limit: the largest absolute difference between the file's and the model's probabilities.

    Returns:
        Where the file is, and how it compares.

    Raises:
        InvalidArgument: an argument cannot be, or the model does not end in probabilities.
        InvalidInput: the data do not fit the model.
        ExportFailed: the model cannot be expressed in ONNX.
        VerificationFailed: the file gives other answers than the model. Nothing is published.
        MissingDependency: onnxruntime is not installed.
        PublishFailed: the repository cannot be written.
    """
    check_model_name(name)
    if input_shape is None and not isinstance(model, Network):
        raise InvalidArgument("`input_shape` is needed for a module that is not one of our models.")
    shape = model.input_shape if isinstance(model, Network) else sample_shape(input_shape, "export")

    answers = _reference(model)
    units = _units(answers(_probe(shape)))
    classes = max(units, 2)
    names = [str(number) for number in range(classes)] if labels is None else labels
    metadata = Metadata.for_units(units, names, threshold, input_range, training_metrics, source)
    if data is not None:
        data.check_fits(shape, classes)
    program = export_onnx(model, shape, metadata)
    content, real = to_bytes(program), None if data is None else data.images
    verification = verify(content, answers, shape, input_range=input_range, real_inputs=real, limit=limit)
    if not verification.passed:
        raise VerificationFailed(
            f"{name}: the ONNX file does not give the model's answers; nothing was published.\n{verification}"
        )
    evidence = Evidence(name, content, metadata, verification, describe_layers(program))
    files = beside(evidence) if beside is not None else {}
    return Exported(publish(content, Path(repository), name, files), verification)


def _reference(model: nn.Module) -> Reference:
    """Return the model as a function on arrays.

    Our own networks answer in float64, so that a difference is the file's alone: torch's float32 rounds by several 1e-6
    on a sum over ten thousand features. A foreign module may not be able to, and answers as it is.
    """
    module = copy.deepcopy(model).double() if isinstance(model, Network) else model
    first = next(module.parameters(), torch.zeros(0))

    def answers(images: Images) -> NDArray[np.floating[Any]]:
        with evaluation_mode(module):
            outputs = module(torch.as_tensor(images, dtype=first.dtype, device=first.device))
        return np.asarray(outputs.cpu().numpy())

    return answers


def _probe(shape: tuple[int, ...]) -> Images:
    """Return inputs far outside the usual range, on which only a real sigmoid or softmax gives probabilities."""
    return np.random.default_rng(0).normal(0.0, 100.0, (16, *shape)).astype(np.float32)


def _units(outputs: NDArray[np.floating[Any]]) -> int:
    """Return how many outputs a sample has, after a look whether they are probabilities.

    Raises:
        ExportFailed: they are nan, because the weights are broken.
        InvalidArgument: they are not probabilities.
    """
    if outputs.ndim != 2:
        raise InvalidArgument(f"a classifier's answer is [batch, units]; this model gives {list(outputs.shape)}.")
    outputs = outputs[np.isfinite(outputs).all(axis=1)]  # a sound model may overflow on some inputs so far out
    if not len(outputs):
        raise ExportFailed("the model answers nan; its weights are broken, perhaps by a training that diverged.")
    if outputs.min() < 0 or outputs.max() > 1:
        raise InvalidArgument(
            f"the model's answers reach from {outputs.min():.3g} to {outputs.max():.3g}, so they are no probabilities. "
            "End it with activation='sigmoid' (one unit) or activation='softmax' (a unit for each class)."
        )
    if outputs.shape[1] > 1 and not np.allclose(outputs.sum(axis=1), 1, atol=1e-3):
        raise InvalidArgument("the model's answers do not add up to 1. End it with activation='softmax'.")
    return int(outputs.shape[1])
