"""Owns the arguments that every layer takes, and the refusal of those that none or not this one takes.

Knows no particular layer.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from conveyor_exporter.arguments import did_you_mean
from conveyor_exporter.errors import InvalidArgument


class LayerOptions(TypedDict, total=False):
    """What every layer takes besides its own arguments."""

    name: str | None
    input_shape: Sequence[int] | None
    trainable: bool


KERAS_ONLY = frozenset(
    {
        *("activity_regularizer", "bias_constraint", "bias_regularizer", "kernel_constraint", "kernel_regularizer"),
        *("depthwise_constraint", "depthwise_regularizer", "pointwise_constraint", "pointwise_regularizer"),
        *("beta_constraint", "beta_regularizer", "gamma_constraint", "gamma_regularizer"),
        *("renorm", "renorm_clipping", "renorm_momentum", "synchronized"),
        *("lora_alpha", "lora_rank", "quantization_config"),
        *("autocast", "batch_shape", "dtype", "input_dim"),
    }
)
"""Arguments that Keras' layers take and ours do not."""


def refuse_unknown(options: Mapping[str, Any], layer_class: type, known: frozenset[str]) -> None:
    """Accept the `known` options only; `layer_class` lends its name and its own arguments to the message.

    Raises:
        InvalidArgument: an option is unknown, or known to Keras alone.
    """
    kind = layer_class.__name__
    for option in options:
        if option in KERAS_ONLY:
            raise InvalidArgument(f"{kind}: Keras' argument `{option}` is not supported here; leave it out.")
        if option not in known:
            names = {*known, *inspect.signature(layer_class).parameters} - {"options"}
            raise InvalidArgument(f"{kind}: unknown argument `{option}`.{did_you_mean(option, names)}")
