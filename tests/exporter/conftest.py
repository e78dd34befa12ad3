"""Networks and exported files that several tests look at."""

import os

import numpy as np
import onnx
import pytest
import torch

from conveyor_exporter.layers import Conv2D, Dense, Flatten
from conveyor_exporter.models import Sequential
from conveyor_exporter.onnx_file.export import export_onnx
from conveyor_exporter.onnx_file.metadata import Metadata

torch.set_num_threads(1)
os.environ.setdefault("KERAS_BACKEND", "torch")  # read when a test imports keras


def build_tutorial_network() -> Sequential:
    torch.manual_seed(3)
    network = Sequential(
        [
            Conv2D(filters=16, kernel_size=(3, 3), activation="relu", input_shape=(28, 28, 1)),
            Flatten(),
            Dense(1, activation="sigmoid"),
        ]
    )
    randomize_biases(network)
    return network


def randomize_biases(network: Sequential) -> None:
    """Give each bias other values than its zeros, so that a lost one shows."""
    generator = np.random.default_rng(5)
    network.set_weights([w if w.ndim > 1 else generator.normal(0, 0.3, w.shape) for w in network.get_weights()])


@pytest.fixture
def tutorial_network() -> Sequential:
    return build_tutorial_network()


@pytest.fixture(scope="session")
def exported_tutorial() -> tuple[Sequential, onnx.ModelProto]:
    network = build_tutorial_network()
    return network, export_onnx(network, network.input_shape, Metadata.for_units(1, ["even", "odd"]))


@pytest.fixture
def with_random_biases():
    return randomize_biases
