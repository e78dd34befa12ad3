"""Owns the way from a torch module to a finished ONNX model: trace, clean, check. Knows nothing of publishing."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from torch import nn

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import ExportFailed, InvalidArgument, NotBuilt
from conveyor_exporter.evaluation import evaluation_mode
from conveyor_exporter.network import Network
from conveyor_exporter.onnx_file.cleanup import clean
from conveyor_exporter.onnx_file.file_format import FLOAT32_FILE, FileFormat, InputDtype, Precision
from conveyor_exporter.onnx_file.float16 import to_float16
from conveyor_exporter.onnx_file.graph_ends import give_logits, take_bytes
from conveyor_exporter.onnx_file.inference_twin import InferenceTwin
from conveyor_exporter.onnx_file.int8 import to_int8
from conveyor_exporter.onnx_file.metadata import Metadata
from conveyor_exporter.pictures.labelled_data import LabelledData

INPUT_NAME = "image"
BATCH_AXIS = "batch"
SAMPLE_BATCH = 2  # torch turns a batch axis of size 1 into a constant


def export_onnx(
    model: nn.Module, input_shape: Shape, metadata: Metadata, form: FileFormat = FLOAT32_FILE
) -> onnx.ModelProto:
    """Return a model as one clean float32 ONNX file: named, dynamic in its batch axis, same bytes for same weights.

    Args:
        model: our network, or any module from float32 [batch, *input_shape] to float32 [batch, units].
        input_shape: the shape of one sample, without the batch axis.
        metadata: what the file says about itself.
        form: opset and IR version; its other choices are for `finish`.

    Raises:
        ExportFailed: torch cannot express the model in ONNX, or the outcome is not what we promise.
    """
    if isinstance(model, Network) and not model.built:
        raise NotBuilt(f"{model.name} does not know its shapes yet: give its first layer `input_shape`.")
    program = _trace(model, input_shape, metadata.task.output_name, form.opset)
    clean(program)
    program.ir_version = form.ir
    program.metadata_props.extend(
        onnx.StringStringEntryProto(key=key, value=value) for key, value in metadata.to_properties().items()
    )
    _check(program)
    return program


def finish(
    program: onnx.ModelProto, metadata: Metadata, form: FileFormat, data: LabelledData | None = None
) -> onnx.ModelProto:
    """Return a float32 file with the precision and the ends that were asked for.

    Args:
        program: what `export_onnx` made; stays as it is.
        metadata: what the file says about itself.
        form: precision, input type and outputs.
        data: pictures to calibrate int8 with.

    Raises:
        InvalidArgument: int8 has no data to calibrate with.
        ExportFailed: the graph cannot be turned into what was asked for.
    """
    finished = copy.deepcopy(program)
    if form.precision is Precision.FLOAT16:
        finished = to_float16(program)
    elif form.precision is Precision.INT8:
        if data is None:
            raise InvalidArgument("int8 needs labelled data, to calibrate with and to measure what it costs.")
        finished = to_int8(program, data.images)
    if form.input_dtype is InputDtype.UINT8:
        take_bytes(finished, metadata.input_range)
    if form.logits:
        give_logits(finished)
    _check(finished)
    return finished


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Return the file's content: the same for the same model, wherever it is made."""
    return model.SerializeToString(deterministic=True)


def append_property(content: bytes, key: str, value: str) -> bytes:
    """Return a file's bytes with one more property at their end; all bytes that were there stay as they were.

    Messages of protocol buffers merge when they are put one behind the other (protobuf.dev, "Last One Wins"), so what
    was verified is, byte for byte, what is published.
    """
    addition = onnx.ModelProto()
    addition.metadata_props.add(key=key, value=value)
    return content + addition.SerializeToString(deterministic=True)


def _trace(model: nn.Module, input_shape: Shape, output_name: str, opset: int) -> onnx.ModelProto:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with evaluation_mode(model), _quiet():
        module = InferenceTwin(model).eval() if isinstance(model, Network) else model
        try:
            program = torch.onnx.export(
                module,
                (torch.zeros(SAMPLE_BATCH, *input_shape, device=device),),
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[output_name],
                dynamic_shapes=({0: torch.export.Dim(BATCH_AXIS)},),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).partition("\n")[0]  # torch's own text fills a screen
            raise ExportFailed(f"torch cannot express this model in ONNX: {reason}") from error
    if program is None:
        raise ExportFailed("torch returned no ONNX program. This is a bug.")
    return program.model_proto


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportFailed(f"the exported graph is not valid ONNX. This is a bug. {error}") from error
    for value in (*model.graph.input, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        if not axes or axes[0].dim_param != BATCH_AXIS:
            raise ExportFailed(
                f"the first axis of {value.name!r} does not stay open for any batch size; "
                "does the model reshape or index over it?"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop the two things that torch's exporter says on every run and that no user can act on."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")

    def worth_saying(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    registry.addFilter(worth_saying)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        registry.removeFilter(worth_saying)
