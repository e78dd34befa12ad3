"""Train Keras-style image classifiers in torch, and publish them as verified, self-describing ONNX files.

Importing this package is cheap: torch is loaded by what needs it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conveyor_exporter.pipeline import Exported, export
    from conveyor_exporter.sources.keras_file import load_keras

__all__ = ["Exported", "export", "load_keras"]


def __getattr__(name: str) -> Any:
    if name == "load_keras":
        from conveyor_exporter.sources import keras_file

        return keras_file.load_keras
    if name in __all__:
        from conveyor_exporter import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
