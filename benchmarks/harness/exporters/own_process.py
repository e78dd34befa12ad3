"""The ways that run in this process: ours, Keras' own export on torch, and torch.onnx."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import torch

from conveyor_exporter import layers
from conveyor_exporter.models import Sequential
from conveyor_exporter.onnx_file.export import export_onnx, to_bytes
from conveyor_exporter.onnx_file.metadata import Metadata
from harness.exporters.keras_twin import in_keras
from harness.exporters.measuring import OURS
from harness.exporters.networks import INPUT, Network, Weights
from harness.exporters.torch_twin import in_torch


def in_ours(network: Network) -> Sequential:
    """The network in our layers, with weights that do something."""
    torch.manual_seed(0)
    model = Sequential()
    model.add(layers.Input(shape=INPUT))
    for kind, options in network:
        model.add(getattr(layers, kind)(**options))
    generator = np.random.default_rng(0)
    for layer in model.layers:
        low, high = (0.5, 1.5) if isinstance(layer, layers.BatchNormalization) else (-0.1, 0.1)
        layer.set_weights([w if w.ndim > 1 else generator.uniform(low, high, w.shape) for w in layer.get_weights()])
    return model.eval()


def weights_of(model: Sequential) -> Weights:
    """Layer by layer, without the Input."""
    return [layer.get_weights() for layer in model.layers if not isinstance(layer, layers.Input)]


def ways(network: Network) -> dict[str, Callable[[Path], None]]:
    """What writes the network's file, by name."""
    model = in_ours(network)
    twin, plain = in_keras(network, weights_of(model)), in_torch(network, weights_of(model))
    twin(np.zeros((1, *INPUT), np.float32))  # Keras' export refuses a model that was never called
    units = model.layers[-1].units

    def ours(path: Path) -> None:
        labels = [str(number) for number in range(max(2, units))]
        path.write_bytes(to_bytes(export_onnx(model, INPUT, Metadata.for_units(units, labels))))

    def keras_export(path: Path) -> None:
        twin.export(path, format="onnx", verbose=False)

    def torch_export(path: Path) -> None:
        batch = torch.export.Dim("batch")
        torch.onnx.export(
            plain, (torch.zeros(2, *INPUT),), path, dynamo=True, verbose=False, external_data=False,
            dynamic_shapes=({0: batch},),
        )  # fmt: skip

    return {OURS: ours, "keras.export": keras_export, "torch.onnx": torch_export}
