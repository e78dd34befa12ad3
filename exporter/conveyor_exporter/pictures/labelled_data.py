"""Owns pictures with what they show, as arrays. Knows neither where they come from nor any model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Pictures as a model takes them, with their class numbers.

    Attributes:
        images: float32 [samples, *input_shape], in the model's input range.
        labels: int64 [samples], class numbers from 0; for a model that answers yes or no, 1 means yes.

    Raises:
        InvalidInput: there are no samples, not as many labels as images, a label is no class number, or a value is nan.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        if images.ndim < 2 or labels.ndim != 1 or not 0 < len(images) == len(labels):
            raise InvalidInput(
                "labelled data are images [samples, …] and as many labels [samples], at least one; "
                f"got images {list(images.shape)} and labels {list(labels.shape)}."
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise InvalidInput(f"labels must be class numbers from 0, got {labels.dtype}, smallest {labels.min()}.")
        object.__setattr__(self, "images", np.ascontiguousarray(images, np.float32))
        object.__setattr__(self, "labels", labels.astype(np.int64))
        if not np.isfinite(self.images).all():
            raise InvalidInput("the images of labelled data must be finite numbers; some are nan or infinite.")

    def __len__(self) -> int:
        return len(self.labels)

    def check_fits(self, input_shape: tuple[int, ...], classes: int) -> None:
        """Accept data that a model with this input and so many classes (two, when it answers yes or no) can answer.

        Raises:
            InvalidInput: a picture has another shape, or a label is no class of the model.
        """
        if self.images.shape[1:] != input_shape:
            raise InvalidInput(f"the images must be [samples, *{input_shape}], got {list(self.images.shape)}.")
        if self.labels.max() >= classes:
            raise InvalidInput(f"the labels reach to {self.labels.max()}, but the model knows {classes} classes.")
