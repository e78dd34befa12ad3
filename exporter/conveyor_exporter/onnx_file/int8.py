"""Owns the turning of a float32 graph into one of int8, by onnxruntime's tools. Knows onnx only.

How much a file loses by it is for `verify` to say.
"""

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from conveyor_exporter.errors import ExportFailed
from conveyor_exporter.onnx_file.graph_ends import HEADS
from conveyor_exporter.onnx_file.order import in_order
from conveyor_exporter.onnx_file.runtime import load_quantization

CALIBRATION_BATCH = 32


def to_int8(model: onnx.ModelProto, images: NDArray[np.float32]) -> onnx.ModelProto:
    """Return a graph of static int8: QuantizeLinear and DequantizeLinear, a scale for each channel of a weight.

    Pre-processed, calibrated by smallest and largest values, symmetric weights: what onnxruntime's documentation on
    quantisation advises for convolutional networks. The last sigmoid or softmax stays float32.

    Args:
        model: a float32 graph; stays as it is.
        images: float32 [samples, *input_shape] to calibrate with.

    Raises:
        ExportFailed: onnxruntime cannot quantise the graph.
    """
    quantization = load_quantization()
    with tempfile.TemporaryDirectory(prefix="conveyor-") as folder:
        given, prepared, made = (Path(folder) / f"{step}.onnx" for step in ("given", "prepared", "made"))
        onnx.save(model, given)
        try:
            # the symbolic shape inference is for transformers, and needs sympy
            quantization.quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(made),
                _reader(quantization.CalibrationDataReader, model.graph.input[0].name, images),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                nodes_to_exclude=_head_names(onnx.load(prepared)),
            )
        except Exception as error:  # its tools raise whatever they meet
            reason = str(error).strip().partition("\n")[0]
            raise ExportFailed(f"onnxruntime cannot quantise this model to int8: {reason}") from error
        quantized = onnx.load(made)
    result = copy.deepcopy(model)
    result.graph.CopyFrom(quantized.graph)
    for node in result.graph.node:
        node.name = _name_in_layer(node)
    return in_order(result)


def _name_in_layer(node: onnx.NodeProto) -> str:
    """Return `dense/kernel_dequantizelinear` for `dense.kernel_DequantizeLinear`, as the layer's other nodes."""
    subject, _, operator = node.name.rpartition("_")
    if operator != node.op_type:
        return str(node.name)
    separator = "_" if set(subject) & set("./") else "/"
    return f"{subject.replace('.', '/')}{separator}{operator.lower()}"


def _reader(base: Any, name: str, images: NDArray[np.float32]) -> Any:
    """Return onnxruntime's form of an iterator over batches."""
    batches = iter([images[start : start + CALIBRATION_BATCH] for start in range(0, len(images), CALIBRATION_BATCH)])

    class Reader(base):  # type: ignore[misc]  # the base class comes at run time, with onnxruntime
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(batches, None)
            return None if batch is None else {name: batch}

    return Reader()


def _head_names(model: onnx.ModelProto) -> list[str]:
    """Return the sigmoid or softmax that gives the output: a step of 1/255 there would be visible."""
    outputs = {value.name for value in model.graph.output}
    return [node.name for node in model.graph.node if node.op_type in HEADS and outputs & set(node.output)]
