"""Owns the labelled pictures that a network is trained on: where they come from, and their split. Knows no model."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidData
from conveyor_exporter.pictures.labelled_data import LabelledData
from conveyor_exporter.pictures.npz_file import read_npz
from conveyor_exporter.pictures.picture_folder import read_folder
from conveyor_exporter.pictures.pixels import Range


@dataclass(frozen=True)
class Split:
    """Labelled pictures in three parts without overlap.

    Attributes:
        training: to train on.
        validation: to evaluate with after each epoch; None when it was not asked for.
        test: to measure the finished model with.
    """

    training: LabelledData
    validation: LabelledData | None
    test: LabelledData


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures.

    Attributes:
        samples: the pictures and their class numbers.
        classes: the names of the classes.
        notes: lines about what was done to them.
    """

    samples: LabelledData
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 of the pictures as the network sees them, the class numbers and the names, in hexadecimal."""
        digest = hashlib.sha256(json.dumps([self.classes, self.samples.images.shape]).encode())
        digest.update(np.ascontiguousarray(self.samples.images, "<f4").tobytes())
        digest.update(self.samples.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def split(self, validation: float, test: float, seed: int) -> Split:
        """Return the pictures in three parts, each with its share of every class, chosen by the seed.

        Raises:
            InvalidData: a class has too few pictures to be in every part.
        """
        generator = np.random.default_rng(seed)
        shares = {"test": test, "validation": validation}
        rows: dict[str, list[NDArray[np.int64]]] = {"test": [], "validation": [], "training": []}
        for number, name in enumerate(self.classes):
            left = generator.permutation(np.flatnonzero(self.samples.labels == number))
            counts = {part: max(1, round(len(left) * share)) if share else 0 for part, share in shares.items()}
            if sum(counts.values()) >= len(left):
                raise InvalidData(
                    f"the class {name!r} has {len(left)} pictures; "
                    f"{sum(bool(count) for count in counts.values()) + 1} are needed at least, one for each part."
                )
            for part, count in counts.items():
                rows[part].append(left[:count])
                left = left[count:]
            rows["training"].append(left)
        parts = {part: self._take(np.concatenate(chosen)) for part, chosen in rows.items() if any(map(len, chosen))}
        return Split(parts["training"], parts.get("validation"), parts["test"])

    def _take(self, rows: NDArray[np.int64]) -> LabelledData:
        return LabelledData(self.samples.images[rows], self.samples.labels[rows])


def read_dataset(
    path: Path, shape: Shape, input_range: Range, labels: tuple[str, ...] | None, console: Console
) -> Dataset:
    """Return the labelled pictures in an npz file or in a folder of class folders.

    Args:
        path: the file or the folder.
        shape: of one picture: height, width, channels.
        input_range: smallest and largest value that the network is to see.
        labels: names of the classes; of a folder its class folders in another order.
        console: where a terminal shows the progress.

    Raises:
        InvalidData: it cannot be read, or is not what the network takes.
    """
    try:
        if path.is_dir():
            return Dataset(*read_folder(path, shape, input_range, labels, console))
        if path.suffix.lower() != ".npz":
            what = "is neither an npz file nor a folder of class folders" if path.exists() else "does not exist"
            raise InvalidData(f"{path} {what}.")
        return Dataset(*read_npz(path, shape, input_range, labels))
    except OSError as error:
        raise InvalidData(f"cannot read {path}: {error.strerror or error}.") from error
