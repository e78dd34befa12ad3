"""tf2onnx, with Keras on TensorFlow: its own `from_keras`, with the settings that it comes with.

A Sequential of Keras 3 ends in a KeyError there; the Functional model of the same tensors does not.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf
import tf2onnx

from harness.exporters.keras_twin import in_keras
from harness.exporters.networks import INPUT, Network, Weights
from harness.exporters.rival_main import export_all


def way(network: Network, weights: Weights) -> Callable[[Path], None]:
    twin = in_keras(network, weights)
    model = keras.Model(twin.inputs, twin.outputs)
    signature = (tf.TensorSpec((None, *INPUT), tf.float32, name="image"),)

    def export(path: Path) -> None:
        tf2onnx.convert.from_keras(model, input_signature=signature, output_path=str(path))

    return export


if __name__ == "__main__":
    export_all(way)
