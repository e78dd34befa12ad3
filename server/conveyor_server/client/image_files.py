"""Paths to batches of images: picture files, folders of them, and `.npy` files of ready arrays. Asks no server."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from pathlib import Path

import numpy as np

from conveyor_server.client.descriptions import ModelDescription
from conveyor_server.client.pictures import (
    PICTURE_SUFFIXES,
    Picture,
    PictureError,
    as_input,
    picture_shape,
    read_picture,
)
from conveyor_server.core.model import Array

MAX_BYTES = 3 * 2**20
"""Of images in one request: any gRPC server takes 4 MiB, and larger ones are not faster."""

_ARRAY_SUFFIX = ".npy"


@dataclass
class Loaded:
    """The images of one request."""

    names: list[str] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    images: Array | None = None
    """`[len(names), …]` as the model wants it; None if none could be read."""
    pictures: list[Picture] = field(default_factory=list)
    """The same as pictures; empty for arrays."""
    problems: list[str] = field(default_factory=list)
    """Why files are missing here."""


@dataclass(frozen=True)
class PictureBatch:
    """Picture files that go into one request."""

    paths: Sequence[Path]

    def load(self, model: ModelDescription) -> Loaded:
        """Reads what can be read."""
        loaded = Loaded()
        shape = picture_shape(model)
        for path in self.paths:
            try:
                loaded.pictures.append(read_picture(path, shape))
            except PictureError as error:
                loaded.problems.append(str(error))
            else:
                loaded.names.append(str(path))
                loaded.paths.append(path)
        if loaded.pictures:
            loaded.images = as_input(loaded.pictures, model)
        return loaded


@dataclass(frozen=True)
class ArrayBatch:
    """Rows of an array in a file that go into one request."""

    path: Path
    array: Array
    """`[images, …]`, mapped from the file."""
    start: int
    stop: int

    def load(self, model: ModelDescription) -> Loaded:
        """Reads the rows, which must be as the model wants them."""
        rows = self.array[self.start : self.stop]
        names = [f"{self.path}[{row}]" for row in range(self.start, self.stop)]
        return Loaded(names, [self.path] * len(names), np.array(rows))


Batch = PictureBatch | ArrayBatch


def find_batches(paths: Sequence[Path], model: ModelDescription, size: int) -> list[Batch]:
    """The batches that files and folders make, of at most `size` images, and of what the model and a server take.

    Raises:
        PictureError: a folder has no pictures, an array is no batch for the model, or the model has several inputs.
    """
    if len(model.inputs) != 1:
        names = ", ".join(tensor.name for tensor in model.inputs)
        raise PictureError(f"Model '{model.name}' takes no pictures: it has several inputs ({names}).")
    image_bytes = prod(abs(size) for size in model.inputs[0].shape[1:]) * model.inputs[0].dtype.itemsize
    size = max(1, min(size, model.max_batch_size, MAX_BYTES // max(1, image_bytes)))
    files = [file for path in paths for file in _expand(path)]
    batches: list[Batch] = []
    for is_array, group in groupby(files, lambda path: path.suffix == _ARRAY_SUFFIX):
        if is_array:
            for path in group:
                batches += _array_batches(path, model, size)
        else:
            pictures = list(group)
            batches += [PictureBatch(pictures[start : start + size]) for start in range(0, len(pictures), size)]
    return batches


def _expand(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file())
    if not found:
        raise PictureError(f"The folder '{path}' has no pictures in it.")
    yield from found


def _array_batches(path: Path, model: ModelDescription, size: int) -> Iterator[Batch]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise PictureError(f"'{path}' cannot be read as an array: {error}") from error
    shape = model.inputs[0].shape
    if array.ndim == len(shape) - 1:
        array = array[None]
    if not model.inputs[0].admits(array.shape):
        raise PictureError(
            f"'{path}' has an array of shape {list(array.shape)}, model '{model.name}' wants {list(shape)}."
        )
    for start in range(0, len(array), size):
        yield ArrayBatch(path, array, start, min(start + size, len(array)))
