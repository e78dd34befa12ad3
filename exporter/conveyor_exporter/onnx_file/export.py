"""Owns the way from a model to a finished ONNX file: write, change its form, check. Knows nothing of publishing."""

import copy

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import ExportFailed, InvalidArgument, NotBuilt
from conveyor_exporter.network import Network
from conveyor_exporter.onnx_file.file_format import BATCH_AXIS, FLOAT32_FILE, FileFormat, InputDtype, Precision
from conveyor_exporter.onnx_file.float16 import to_float16
from conveyor_exporter.onnx_file.graph_ends import give_logits, take_bytes
from conveyor_exporter.onnx_file.int8 import to_int8
from conveyor_exporter.onnx_file.metadata import Metadata
from conveyor_exporter.onnx_file.network_graph import is_ours_alone, write_network
from conveyor_exporter.onnx_file.torch_trace import trace


def export_onnx(
    model: nn.Module, input_shape: Shape, metadata: Metadata, form: FileFormat = FLOAT32_FILE
) -> onnx.ModelProto:
    """Return a model as one clean float32 ONNX file: named, dynamic in its batch axis, same bytes for same weights.

    Args:
        model: our network, or any module from float32 [batch, *input_shape] to float32 [batch, units].
        input_shape: the shape of one sample, without the batch axis.
        metadata: what the file says about itself.
        form: opset, IR version and precision to prepare for; the precision itself and the ends are for `finish`.

    Raises:
        NotBuilt: the network does not know its shapes yet.
        ExportFailed: torch cannot express the module in ONNX, or the outcome is not what we promise.
    """
    if isinstance(model, Network) and not model.built:
        raise NotBuilt(f"{model.name} does not know its shapes yet: give its first layer `input_shape`.")
    output_name = metadata.task.output_name
    if isinstance(model, Network) and is_ours_alone(model):
        image_sums = form.precision is Precision.FLOAT32  # int8 has no such sum, and float16 is for a GPU
        program = write_network(model, output_name, form.opset, image_sums)
    else:
        program = trace(model, input_shape, output_name, form.opset)
    program.ir_version = form.ir
    program.metadata_props.extend(
        onnx.StringStringEntryProto(key=key, value=value) for key, value in metadata.to_properties().items()
    )
    _check(program)
    return program


def finish(
    program: onnx.ModelProto, metadata: Metadata, form: FileFormat, calibration: NDArray[np.float32] | None = None
) -> onnx.ModelProto:
    """Return a float32 file with the precision and the ends that were asked for.

    Args:
        program: what `export_onnx` made; stays as it is.
        metadata: what the file says about itself.
        form: precision, input type and outputs.
        calibration: pictures to calibrate int8 with, float32 [samples, *input_shape].

    Raises:
        InvalidArgument: int8 has no pictures to calibrate with.
        ExportFailed: the graph cannot be turned into what was asked for.
    """
    finished = copy.deepcopy(program)
    if form.precision is Precision.FLOAT16:
        finished = to_float16(program)
    elif form.precision is Precision.INT8:
        if calibration is None:
            raise InvalidArgument("int8 needs pictures to calibrate with.")
        finished = to_int8(program, calibration)
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
