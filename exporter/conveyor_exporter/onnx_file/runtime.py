"""Owns onnxruntime: the only module that imports it, and only when a file is to be run. Knows nothing of torch."""

import os
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.errors import MissingDependency

FATAL = 4  # log level: what goes wrong is raised, and needs no second text on stderr


class Session:
    """One ONNX model ready to run on the processor, on one thread.

    Args:
        content: the bytes of the ONNX file.
        optimized: whether onnxruntime rewrites the graph (ENABLE_ALL) or runs it as it is (DISABLE_ALL).

    Raises:
        MissingDependency: onnxruntime is not installed.
        Exception: whatever onnxruntime raises for a file that it cannot load.
    """

    def __init__(self, content: bytes, optimized: bool) -> None:
        runtime = load_onnxruntime()
        levels = runtime.GraphOptimizationLevel
        options = runtime.SessionOptions()
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = FATAL
        self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(self, inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name, in the file's order, for one batch."""
        names = [output.name for output in self._session.get_outputs()]
        outputs = self._session.run(names, {self._session.get_inputs()[0].name: inputs})
        return {name: np.asarray(output) for name, output in zip(names, outputs, strict=True)}


def runtime_version() -> str:
    """Return what runs the files, such as `onnxruntime 1.32.0`."""
    return f"onnxruntime {load_onnxruntime().__version__}"


def load_onnxruntime() -> ModuleType:
    """Return the module onnxruntime, with its telemetry off.

    Raises:
        MissingDependency: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "onnxruntime, which verifies every export, is not installed. "
            "Install it: pip install 'conveyor-exporter[cpu]', or on a machine with an NVIDIA GPU "
            "pip install 'conveyor-exporter[gpu]'."
        ) from error
    module: ModuleType = onnxruntime
    return module


def load_quantization() -> ModuleType:
    """Return onnxruntime's tools for int8.

    Raises:
        MissingDependency: onnxruntime is not installed.
    """
    load_onnxruntime()
    from onnxruntime import quantization

    module: ModuleType = quantization
    return module
