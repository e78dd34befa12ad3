"""Owns Keras' way to say the shape of a model's inputs; it is no layer and computes nothing."""

from collections.abc import Sequence

from conveyor_exporter.arguments import layer_name, sample_shape
from conveyor_exporter.errors import InvalidArgument


class Input:
    """Stands first in a model and says what goes in.

    Args:
        shape: the shape of one sample, without the batch axis.
        batch_size: None; the batch axis stays open.
        dtype: None or `float32`, in which the model computes.
        name: taken for the sake of Keras programs.

    Raises:
        InvalidArgument: an argument has a value that cannot work.
        InvalidArgumentType: an argument has a type that cannot work.
    """

    def __init__(
        self, shape: Sequence[int], batch_size: None = None, dtype: str | None = None, name: str | None = None
    ) -> None:
        self.shape = sample_shape(shape, "Input")
        if batch_size is not None:
            raise InvalidArgument(f"Input: `batch_size` must be None, the batch axis stays open; got {batch_size!r}.")
        if dtype not in (None, "float32"):
            raise InvalidArgument(f"Input: `dtype` must be 'float32', in which the model computes; got {dtype!r}.")
        self.name = "input" if name is None else layer_name(name, "Input")


InputLayer = Input
"""Keras' class behind its function `Input`; here they are one."""
