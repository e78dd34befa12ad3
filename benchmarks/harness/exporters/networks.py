"""The networks that are exported, in Keras' words, and how they travel to a process that has none of our packages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INPUT = (28, 28, 1)

Network = tuple[tuple[str, dict[str, Any]], ...]
"""Each layer's class in Keras and its arguments."""

Weights = list[list[NDArray[np.float32]]]
"""Each layer's weights, as Keras' `get_weights` gives them."""

TUTORIAL: Network = (
    ("Conv2D", {"filters": 16, "kernel_size": 3, "activation": "relu"}),
    ("Flatten", {}),
    ("Dense", {"units": 1, "activation": "sigmoid"}),
)
CLASSIC: Network = (
    ("Conv2D", {"filters": 32, "kernel_size": 3, "activation": "relu"}),
    ("MaxPooling2D", {"pool_size": 2}),
    ("Conv2D", {"filters": 64, "kernel_size": 3, "activation": "relu"}),
    ("MaxPooling2D", {"pool_size": 2}),
    ("Flatten", {}),
    ("Dense", {"units": 128, "activation": "relu"}),
    ("Dense", {"units": 10, "activation": "softmax"}),
)
NORMALISED: Network = (
    ("Conv2D", {"filters": 16, "kernel_size": 3, "strides": 2, "padding": "same", "use_bias": False}),
    ("BatchNormalization", {}),
    ("ReLU", {}),
    ("Conv2D", {"filters": 32, "kernel_size": 3, "padding": "same", "use_bias": False}),
    ("BatchNormalization", {}),
    ("ReLU", {}),
    ("GlobalAveragePooling2D", {}),
    ("Dense", {"units": 10, "activation": "softmax"}),
)
NETWORKS = {"tutorial": TUTORIAL, "classic": CLASSIC, "normalised": NORMALISED}


def save(path: Path, network: Network, weights: Weights) -> None:
    """Write a network and its weights as an npz file without pickles."""
    arrays = {f"{layer}.{number}": array for layer, group in enumerate(weights) for number, array in enumerate(group)}
    np.savez(path, network=np.array(json.dumps(network)), **arrays)


def load(path: Path) -> tuple[Network, Weights]:
    """Read what `save` wrote."""
    with np.load(path) as arrays:
        network = tuple((kind, options) for kind, options in json.loads(str(arrays["network"])))
        weights: Weights = [[] for _ in network]
        for name in arrays.files:
            if name != "network":
                weights[int(name.split(".")[0])].append(arrays[name])
    return network, weights
