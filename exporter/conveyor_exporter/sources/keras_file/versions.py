"""Owns what has changed its meaning from one version of Keras to another, so that a file means what it meant."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from conveyor_exporter import activations
from conveyor_exporter.activations import Activation
from conveyor_exporter.errors import ModelFileRefused

OF_KERAS_2: Mapping[str, Activation] = {
    "hard_sigmoid": activations.hard_sigmoid_of_keras_2,
    "log_softmax_v2": activations.log_softmax,  # TensorFlow's names of its own functions, which some versions wrote
    "softmax_v2": activations.softmax,
}
SPARSEMAX_IS_RIGHT = (3, 16)
"""Up to 3.15.1 its values do not add up to 1 (keras issue 23425), which was mended on the way to 3.16."""


@dataclass(frozen=True)
class KerasVersion:
    """The version of Keras that wrote a file.

    Attributes:
        text: as the file says it, such as `2.15.0`; None when it does not say.
    """

    text: str | None

    def activation(self, name: str) -> str | Activation:
        """Return what the name of an activation meant.

        Raises:
            ModelFileRefused: it meant something that no other program computes.
        """
        if self._numbers < (3,) and name.lower() in OF_KERAS_2:
            return OF_KERAS_2[name.lower()]
        if self._numbers < SPARSEMAX_IS_RIGHT and name.lower() == "sparsemax":
            raise ModelFileRefused(
                f"the activation 'sparsemax' of Keras {self.text} computes values that do not add up to 1, which "
                "newer versions have mended. Train and save the model with a newer one, or use 'softmax'."
            )
        return name

    @property
    def _numbers(self) -> tuple[int, ...]:
        """The numbers to compare by; a file that does not say is taken for one of the newest."""
        found = re.match(r"(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?", self.text or "")
        return tuple(int(number or 0) for number in found.groups()) if found else (1 << 30,)
