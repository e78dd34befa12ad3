"""Owns the way from any torch module to an ONNX model: torch traces it, and what it wrote is cleaned."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from torch import nn

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import ExportFailed
from conveyor_exporter.evaluation import evaluation_mode
from conveyor_exporter.onnx_file.file_format import BATCH_AXIS, INPUT_NAME
from conveyor_exporter.onnx_file.torch_cleanup import clean

SAMPLE_BATCH = 2  # torch turns a batch axis of size 1 into a constant


def trace(module: nn.Module, input_shape: Shape, output_name: str, opset: int) -> onnx.ModelProto:
    """Return a module from float32 [batch, *input_shape] as a clean ONNX model; its mode and weights stay as they are.

    Raises:
        ExportFailed: torch cannot express the module in ONNX.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with evaluation_mode(module), _quiet():
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
    model = program.model_proto
    clean(model)
    return model


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
