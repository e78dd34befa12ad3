"""A network in Keras 3, on any backend. Imports nothing of ours, so that every environment with Keras can."""

import keras

from harness.exporters.networks import INPUT, Network, Weights


def in_keras(network: Network, weights: Weights) -> keras.Model:
    """The network with its weights."""
    twin = keras.Sequential(
        [keras.Input(INPUT), *(getattr(keras.layers, kind)(**options) for kind, options in network)]
    )
    for layer, arrays in zip(twin.layers, weights, strict=True):
        layer.set_weights(arrays)
    return twin
