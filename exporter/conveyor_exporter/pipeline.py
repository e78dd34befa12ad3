"""Owns the order of an export: learn the head, export, verify, publish. Knows each step only by its function."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from conveyor_exporter.arguments import Shape, sample_shape
from conveyor_exporter.errors import InvalidArgument, InvalidInput, VerificationFailed
from conveyor_exporter.network import Network
from conveyor_exporter.onnx_file.calibration import calibration_pictures, split_off_calibration
from conveyor_exporter.onnx_file.export import append_property, export_onnx, finish, to_bytes
from conveyor_exporter.onnx_file.file_format import OPSET, FileFormat, InputDtype, Precision
from conveyor_exporter.onnx_file.inspection import LayerDescription, describe_layers
from conveyor_exporter.onnx_file.metadata import Metadata, Source
from conveyor_exporter.pictures.labelled_data import LabelledData
from conveyor_exporter.publish import Published, check_model_name, publish
from conveyor_exporter.verification.conditions import LIMIT, MAX_DROP, Conditions
from conveyor_exporter.verification.evidence import Verification
from conveyor_exporter.verification.reference import ReferenceModel
from conveyor_exporter.verification.verify import verify

FLOAT16_LIMIT = 2e-2
"""Largest difference of a probability in float16: it has 11 bits, and a network's sums lose a few of them."""


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
    calibration: NDArray[np.float32] | None = None,
    beside: Beside | None = None,
    input_dtype: str = InputDtype.FLOAT32,
    logits: bool = False,
    precision: str = Precision.FLOAT32,
    opset: int = OPSET,
    ir_version: int | None = None,
    limit: float | None = None,
    max_drop: float = MAX_DROP,
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
        calibration: pictures to calibrate int8 with, float32 [samples, *input_shape], none of them among `data`; None
            takes up to 256 and at most half of `data`, on which the accuracy is then not measured.
        beside: called when the file has passed verification; the files that it returns are published with the model.
        input_dtype: what a client sends: `float32`, or `uint8`, which the graph scales to the input range.
        logits: whether a second output `logits` gives what the last sigmoid or softmax gets.
        precision: what the file calculates with: `float32`, `float16` (for a GPU) or `int8`. The last two need `data`.
        opset: version of the ONNX operators, 18 to 23.
        ir_version: version of the file's structure; None takes the lowest that fits the opset.
        limit: the largest absolute difference between the file's and the model's probabilities; None takes 1e-5 for
            float32 and 2e-2 for float16. Of int8 only the accuracy counts.
        max_drop: by how much the file's accuracy on the data may be lower than the model's: 0.01 is one point.

    Returns:
        Where the file is, and how it compares.

    Raises:
        InvalidArgument: an argument cannot be, or the model does not end in probabilities.
        InvalidInput: the data do not fit the model.
        ExportFailed: the model cannot be expressed in ONNX as asked for.
        VerificationFailed: the file gives other answers than the model. Nothing is published.
        MissingDependency: onnxruntime is not installed.
        PublishFailed: the repository cannot be written.
    """
    check_model_name(name)
    form = FileFormat.of(input_dtype, logits, precision, opset, ir_version)
    if not 0 <= max_drop < 1:
        raise InvalidArgument(f"`max_drop` must be at least 0 and less than 1 (0.01 is one point), got {max_drop!r}.")
    if form.precision is not Precision.FLOAT32 and data is None:
        raise InvalidArgument(
            f"{form.precision} needs labelled data, to measure what it costs; on the command line: --data."
        )
    if input_shape is None and not isinstance(model, Network):
        raise InvalidArgument("`input_shape` is needed for a module that is not one of our models.")
    shape = model.input_shape if isinstance(model, Network) else sample_shape(input_shape, "export")

    reference = ReferenceModel(model)
    units = reference.units(shape)
    classes = max(units, 2)
    if data is not None:
        data.check_fits(shape, classes)
        if form.precision is Precision.INT8:
            calibration, data = _calibration(calibration, data, shape)
    names = [str(number) for number in range(classes)] if labels is None else labels
    metadata = dataclasses.replace(
        Metadata.for_units(units, names, threshold, input_range, training_metrics, source),
        input_shape=shape,
        input_dtype=form.input_dtype,
        precision=form.precision,
    )
    conditions = Conditions(input_range, InputDtype.FLOAT32, data, threshold, limit or LIMIT, None, max_drop)
    program, verification = _proven_file(model, shape, metadata, form, reference, conditions, limit, calibration)
    content = append_property(to_bytes(program), "conveyor.verification", verification.to_json())
    evidence = Evidence(name, content, metadata, verification, describe_layers(program))
    files = beside(evidence) if beside is not None else {}
    return Exported(publish(content, Path(repository), name, files), verification)


def _proven_file(
    model: nn.Module,
    shape: Shape,
    metadata: Metadata,
    form: FileFormat,
    reference: ReferenceModel,
    conditions: Conditions,
    limit: float | None,
    calibration: NDArray[np.float32] | None,
) -> tuple[onnx.ModelProto, Verification]:
    """Return the finished file with its verification; a smaller precision starts from a proven float32 file."""
    program = export_onnx(model, shape, metadata, form)
    if form.precision is not Precision.FLOAT32:
        _prove(program, reference, shape, dataclasses.replace(conditions, limit=LIMIT), "float32")
        usual = FLOAT16_LIMIT if form.precision is Precision.FLOAT16 else math.inf
        conditions = dataclasses.replace(conditions, limit=limit or usual, far_limit=math.inf)
    program = finish(program, metadata, form, calibration)
    conditions = dataclasses.replace(conditions, input_dtype=form.input_dtype)
    verification = _prove(program, reference, shape, conditions, form.precision)
    if form.precision is Precision.INT8 and calibration is not None:
        verification = dataclasses.replace(verification, calibration_samples=len(calibration))
    return program, verification


def _calibration(
    given: NDArray[np.float32] | None, data: LabelledData, shape: Shape
) -> tuple[NDArray[np.float32], LabelledData]:
    """Return pictures to calibrate with, and others to measure on."""
    if given is None:
        return split_off_calibration(data)
    images = np.asarray(given, np.float32)
    if images.shape[1:] != shape:
        raise InvalidInput(f"`calibration` must be [samples, {', '.join(map(str, shape))}], got {list(images.shape)}.")
    return calibration_pictures(images), data


def _prove(
    program: onnx.ModelProto, reference: ReferenceModel, shape: Shape, conditions: Conditions, what: str
) -> Verification:
    verification = verify(to_bytes(program), reference, shape, conditions)
    if not verification.passed:
        raise VerificationFailed(
            f"the {what} ONNX file does not give the model's answers; nothing was published.\n{verification}"
        )
    return verification
