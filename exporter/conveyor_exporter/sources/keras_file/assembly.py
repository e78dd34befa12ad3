"""Owns the building of our network from stored layers and weights, each checked before memory is taken for it."""

import math
from collections.abc import Mapping

import torch

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidArgument, InvalidInput, ModelFileRefused
from conveyor_exporter.layers import Layer
from conveyor_exporter.models import Sequential
from conveyor_exporter.sources.keras_file.chain import Chain, StoredLayer
from conveyor_exporter.sources.keras_file.entries import INPUT
from conveyor_exporter.sources.keras_file.json_text import printable
from conveyor_exporter.sources.keras_file.table import make_layer, safe_name
from conveyor_exporter.sources.keras_file.versions import KerasVersion
from conveyor_exporter.sources.keras_file.weights import StoredWeights

MAX_PARAMETERS = 64 << 20
"""256 MB of float32."""
MAX_VALUES = 8 << 20
"""Largest input or output of a layer, for one sample; the largest of VGG16 has 3.2 million values."""


def assemble(chain: Chain, weights: StoredWeights, version: KerasVersion) -> tuple[Sequential, tuple[str, ...]]:
    """Return the network with its weights, and the names of the layers that do nothing outside training.

    Args:
        chain: the layers.
        weights: what the file has of them.
        version: which Keras wrote both.

    Raises:
        ModelFileRefused: a layer is not understood or does not fit, the network is too large, or the weights are not
            those that it needs.
    """
    if chain.input_shape is None:
        raise ModelFileRefused(
            "the file does not say what shape of input the model takes. Call it once on a picture, or give it an "
            "Input((28, 28, 1)) for example, and save it again."
        )
    made = [(stored, make_layer(stored, version)) for stored in chain.layers]
    kept = [(stored, layer) for stored, layer in made if layer is not None]
    if not kept:
        raise ModelFileRefused("the model has no layer that computes anything.")
    _build(kept, chain.input_shape)
    needs = [(stored, layer, _weight_shapes(layer)) for stored, layer in kept]
    weights.check_layers(chain.layers, [stored for stored, _, shapes in needs if shapes])
    network = Sequential(name=safe_name(chain.name))
    for stored, layer, shapes in needs:
        values = weights.read(stored, shapes) if shapes else []
        layer.to_empty(device="cpu").set_weights(values)
        _append(network, layer)
    left_out = tuple(stored.name for stored, layer in made if layer is None and stored.class_name != INPUT)
    return network, left_out


def _build(kept: list[tuple[StoredLayer, Layer]], shape: Shape) -> None:
    """Build all layers without taking memory for their weights, and count."""
    parameters = 0
    _check_size(shape, "the input")
    for stored, layer in kept:
        try:
            _check_size(layer.output_shape_for(shape), stored.title)
            with torch.device("meta"):  # shapes without values
                layer.build(shape)
        except (InvalidInput, InvalidArgument) as error:
            raise ModelFileRefused(f"{stored.title}: {printable(str(error))}") from error
        except RuntimeError as error:  # the number of bytes does not fit into 64 bits
            raise ModelFileRefused(f"{stored.title} has too many weights.") from error
        parameters += sum(map(math.prod, _weight_shapes(layer).values()))
        if parameters > MAX_PARAMETERS:
            raise ModelFileRefused(
                f"the model has over {MAX_PARAMETERS:,} parameters with {stored.title}; larger ones are not read."
            )
        shape = layer.output_shape or ()


def _weight_shapes(layer: Layer) -> Mapping[str, Shape]:
    """Return the shapes of a built layer's weights by name, in Keras' order and axis order."""
    return {name: tuple(tensor.permute(layer.keras_axes[name]).shape) for name, tensor in layer.weights().items()}


def _check_size(shape: Shape, title: str) -> None:
    if math.prod(shape) > MAX_VALUES:
        raise ModelFileRefused(f"{title} has {math.prod(shape):,} values a sample; at most {MAX_VALUES:,} are read.")


def _append(network: Sequential, layer: Layer) -> None:
    """Add a layer; one whose name is taken, by a layer of a nested model or by the model itself, gets another."""
    name, number = layer.name, 1
    while hasattr(network, layer.name):
        layer.name, number = f"{name}_{number}", number + 1
    network.add(layer)
