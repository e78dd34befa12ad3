"""Owns the reading of labelled pictures from an npz file of numpy; executes nothing from it. Knows no model."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidData
from conveyor_exporter.pictures.labelled_data import LabelledData
from conveyor_exporter.pictures.pixels import Range, to_input_range, to_pictures

Labels = tuple[str, ...]


def read_npz(path: Path, shape: Shape, input_range: Range, labels: Labels | None) -> tuple[LabelledData, Labels]:
    """Return the pictures and the names of their classes.

    Args:
        path: a file with `x` [samples, *shape] and `y`: class numbers or class names [samples], or one-hot
            [samples, classes]; optionally `labels`, the names of the classes.
        shape: of one picture: height, width, channels.
        input_range: smallest and largest value that the network is to see.
        labels: names of the classes, in place of those in the file.

    Raises:
        InvalidData: it cannot be read, or an array cannot be what it should be.
    """
    arrays = _arrays(path)
    for name in ("x", "y"):
        if name not in arrays:
            raise InvalidData(f"{path} has no array {name!r}; it has {', '.join(sorted(arrays)) or 'none'}.")
    x, y = to_pictures(arrays["x"], shape, f"x in {path}"), arrays["y"]
    if len(x) != len(y) or not len(x):
        raise InvalidData(f"{path}: x and y need one entry a picture, got {len(x)} and {len(y)}.")
    if labels is None and "labels" in arrays:
        labels = tuple(str(label) for label in arrays["labels"].ravel())
    numbers, names = _classes(y, labels, path)
    return LabelledData(to_input_range(x, input_range, f"x in {path}"), numbers), names


def _arrays(path: Path) -> Mapping[str, NDArray[np.generic]]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise InvalidData(f"{path} is one array and no npz file; save both with np.savez(path, x=x, y=y).")
        with file:
            return {name: np.atleast_1d(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InvalidData):
            raise
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise InvalidData(f"cannot read {path} as an npz file: {reason}.") from error


def _classes(y: NDArray[np.generic], labels: Labels | None, path: Path) -> tuple[NDArray[np.int64], Labels]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and np.issubdtype(y.dtype, np.number) and set(np.unique(y)) == {0, 1} and (y.sum(1) == 1).all():
        y = y.argmax(1)
    if y.ndim != 1:
        raise InvalidData(f"y in {path} must be [samples], or one-hot [samples, classes], got {y.shape}.")
    if y.dtype.kind == "U":
        names = labels or tuple(str(name) for name in np.unique(y))
        if unknown := sorted(set(map(str, y)) - set(names)):
            raise InvalidData(f"y in {path} names the class {unknown[0]!r}, which is not among {', '.join(names)}.")
        return np.array([names.index(str(name)) for name in y], np.int64), names
    if y.dtype.kind not in "iubf" or not (np.isfinite(y) & (np.mod(y, 1) == 0)).all() or y.min() < 0:
        raise InvalidData(f"y in {path} must be class numbers from 0 or class names, got {y.dtype}, such as {y[0]!r}.")
    numbers = y.astype(np.int64)
    names = labels or tuple(str(number) for number in range(max(int(numbers.max()) + 1, 2)))
    if numbers.max() >= len(names):
        raise InvalidData(f"y in {path} reaches to {numbers.max()}, but there are only {len(names)} labels.")
    return numbers, names
