"""Conveyor's server: serves ONNX image classifiers over gRPC with dynamic batching."""

from importlib.metadata import version

__version__ = version("conveyor-server")
