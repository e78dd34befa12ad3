"""Owns the end of a model that was trained on logits: which sigmoid or softmax its loss applied and the model lacks."""

from conveyor_exporter import activations
from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.layers import Activation, Dropout, Softmax
from conveyor_exporter.models import Sequential
from conveyor_exporter.sources.keras_file.loss import StoredLoss


def add_missing_head(network: Sequential, loss: StoredLoss | None) -> str | None:
    """Let a network end in probabilities when its loss says that it ends before them, `from_logits=True`.

    Args:
        network: the network; it may get one layer more.
        loss: what it was trained with, when that is known.

    Returns:
        The activation that was added, or None when there was nothing to add.

    Raises:
        ModelFileRefused: the loss and the number of outputs do not make a classifier.
    """
    if loss is None or not loss.from_logits or _ends_in_probabilities(network):
        return None
    units = network.output_shape[-1]
    if (units == 1) != (loss.activation == "sigmoid"):
        raise ModelFileRefused(
            f"the model has {units} outputs and was trained with {loss.name}(from_logits=True). A classifier has one "
            "output with binary_crossentropy (yes or no), or one for each class with categorical_crossentropy."
        )
    network.add(Activation(loss.activation))
    return loss.activation


def _ends_in_probabilities(network: Sequential) -> bool:
    last = next((layer for layer in reversed(network.layers) if not isinstance(layer, Dropout)), None)
    probabilities = (activations.NAMED["sigmoid"], activations.NAMED["softmax"])
    return isinstance(last, Softmax) or getattr(last, "activation", None) in probabilities
