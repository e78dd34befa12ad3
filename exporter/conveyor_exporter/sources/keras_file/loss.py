"""Owns what the compile settings in a file tell: which loss, and whether the model answers with logits."""

from dataclasses import dataclass
from typing import Any

from conveyor_exporter.layers.base import snake_case

BINARY = frozenset({"binary_crossentropy", "binary_focal_crossentropy"})
CATEGORICAL = frozenset(
    {"categorical_crossentropy", "sparse_categorical_crossentropy", "categorical_focal_crossentropy"}
)
_SHORT = {"bce": "binary_crossentropy"}


@dataclass(frozen=True)
class StoredLoss:
    """The loss that a model was trained with, when it is one of Keras' for classifiers.

    Attributes:
        name: Keras' name, such as `sparse_categorical_crossentropy`.
        from_logits: whether the loss was told that the model ends before the sigmoid or softmax.
    """

    name: str
    from_logits: bool

    @property
    def activation(self) -> str:
        """What turns logits into the probabilities that this loss is about."""
        return "sigmoid" if self.name in BINARY else "softmax"


def read_loss(compile_settings: Any) -> StoredLoss | None:
    """Return the loss, or None when there is none or it is not one that tells something.

    Takes anything: a loss that is not understood is no reason to refuse a model, whose answers do not depend on it.
    """
    loss: Any = compile_settings.get("loss") if isinstance(compile_settings, dict) else None
    while isinstance(loss, list | dict) and len(loss) == 1:  # [loss], {output: loss}
        loss = next(iter(loss.values() if isinstance(loss, dict) else loss))
    config: Any = {}
    if isinstance(loss, dict):
        loss, config = loss.get("class_name"), loss.get("config")
    if not isinstance(loss, str):
        return None
    name = _SHORT.get(loss, snake_case(loss))
    if name not in BINARY | CATEGORICAL:
        return None
    return StoredLoss(name, isinstance(config, dict) and config.get("from_logits") is True)
