"""Owns what a file is compared with its model on, and how strictly: inputs, batch sizes, limits. Runs nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.arguments import Shape
from conveyor_exporter.onnx_file.file_format import InputDtype
from conveyor_exporter.pictures.labelled_data import LabelledData
from conveyor_exporter.verification.evidence import FAR_OUTSIDE

BATCHES = (1, 2, 7, 64)
LIMIT = 1e-5
"""Largest difference of a probability, in float32 on the processor; what is usual is some 1e-7."""
MAX_DROP = 0.01
FAR = 10.0
"""How far `far outside` lies from the input range, in widths of it; rounding grows with it, and so does the limit."""

Values = NDArray[Any]


@dataclass(frozen=True)
class Conditions:
    """What a file is compared on, and how strictly.

    Attributes:
        input_range: smallest and largest value that the model was trained on.
        input_dtype: what the file takes; uint8 0 to 255 stands for the input range.
        data: labelled pictures to compare on beside made-up ones.
        threshold: probability above which a model with one output means yes.
        limit: the largest absolute difference of a probability that counts as equal.
        far_limit: the same for inputs far outside the range; None allows as much more as they are further away.
        max_drop: by how much the file's accuracy may be lower than the model's.
    """

    input_range: tuple[float, float] = (0.0, 1.0)
    input_dtype: InputDtype = InputDtype.FLOAT32
    data: LabelledData | None = None
    threshold: float = 0.5
    limit: float = LIMIT
    far_limit: float | None = None
    max_drop: float = MAX_DROP

    def to_sent(self, images: Values) -> Values:
        """Return what a client sends for images in the input range."""
        low, high = self.input_range
        if self.input_dtype is InputDtype.FLOAT32:
            return np.ascontiguousarray(images, np.float32)
        return np.clip(np.rint((images.astype(np.float64) - low) * (255 / (high - low))), 0, 255).astype(np.uint8)

    def to_images(self, sent: Values) -> Values:
        """Return the images in the input range for what a client sends."""
        low, high = self.input_range
        return sent if self.input_dtype is InputDtype.FLOAT32 else sent * ((high - low) / 255) + low

    def limit_for(self, kind: str) -> float:
        """Return the limit for a kind of inputs."""
        if kind != FAR_OUTSIDE:
            return self.limit
        return self.limit * FAR if self.far_limit is None else self.far_limit


def made_up_inputs(shape: Shape, conditions: Conditions) -> Iterator[tuple[str, Values]]:
    """Yield made-up inputs as a client sends them."""
    low, high = conditions.input_range
    generator = np.random.default_rng(0)
    for batch in BATCHES:
        sizes = (batch, *shape)
        if conditions.input_dtype is InputDtype.UINT8:
            yield "random", generator.integers(0, 256, sizes, np.uint8)
            yield "zeros", np.zeros(sizes, np.uint8)
            yield "ones", np.ones(sizes, np.uint8)
            yield "extremes", generator.choice(np.array([0, 255], np.uint8), sizes)
        else:
            far = FAR * (high - low)
            yield "random", generator.uniform(low, high, sizes).astype(np.float32)
            yield "zeros", np.zeros(sizes, np.float32)
            yield "ones", np.ones(sizes, np.float32)
            yield "extremes", generator.choice(np.array([low, high], np.float32), sizes)
            yield FAR_OUTSIDE, generator.choice(np.array([low - far, high + far], np.float32), sizes)
