"""Owns the reading of labelled pictures from a folder of class folders. Knows no model."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidData
from conveyor_exporter.pictures.labelled_data import LabelledData
from conveyor_exporter.pictures.pixels import Range, to_input_range, to_pictures

PICTURES = (".jpeg", ".jpg", ".png")
ARRAYS = (".npy",)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
SHOWN = 10  # files that a message names, at most


@dataclass
class _Found:
    """What became of the files."""

    resized: int = 0
    unreadable: list[str] = field(default_factory=list)
    ignored: int = 0


def read_folder(
    folder: Path, shape: Shape, input_range: Range, labels: tuple[str, ...] | None, console: Console
) -> tuple[LabelledData, tuple[str, ...], tuple[str, ...]]:
    """Return the pictures, the names of their classes, and lines about what was done to them.

    Args:
        folder: its folders are the classes, sorted by name; in them PNG, JPEG and npy files (one picture or a stack).
        shape: of one picture; what is larger or smaller is resized, what has other channels becomes grey or RGB.
        input_range: smallest and largest value that the network is to see.
        labels: the names of the class folders in another order.
        console: where a terminal shows the progress.

    Raises:
        InvalidData: there are no classes or no pictures, or the network takes no pictures.
    """
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if labels is not None and sorted(labels) != classes:
        raise InvalidData(f"--labels names {', '.join(labels)}, but the class folders are {', '.join(classes)}.")
    classes = list(labels or classes)
    if len(classes) < 2:
        raise InvalidData(f"{folder} must have a folder for each class, at least two; it has {len(classes)}.")
    if shape[-1] not in MODES:
        raise InvalidData(f"pictures have 1, 3 or 4 channels; the network takes {shape[-1]}. Use an npz file.")
    found = _Found(ignored=sum(not entry.is_dir() for entry in folder.iterdir()))
    files = [(number, path) for number, name in enumerate(classes) for path in _files(folder / name, found)]
    stacks, numbers = [], []
    shown = console if console.is_terminal else Console(quiet=True)
    for number, path in track(files, "reading pictures", console=shown, transient=True):
        try:
            stack = to_input_range(_read(path, shape, found), input_range, path.name)
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:  # all are Pillow's
            found.unreadable.append(f"  {path.relative_to(folder)}: {str(error).partition(chr(10))[0]}")
        else:
            stacks.append(stack)
            numbers += [number] * len(stack)
    notes = tuple(_notes(found, shape))
    if not stacks:
        raise InvalidData("\n".join([f"{folder} has no picture that can be read.", *notes]))
    return LabelledData(np.concatenate(stacks), np.array(numbers, np.int64)), tuple(classes), notes


def _files(folder: Path, found: _Found) -> Iterable[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES + ARRAYS and path.is_file():
            yield path
        else:
            found.ignored += 1


def _read(path: Path, shape: Shape, found: _Found) -> NDArray[np.generic]:
    """Return uint8 or float [samples, *shape]."""
    if path.suffix.lower() in ARRAYS:
        array = np.load(path, allow_pickle=False)
        single = array.shape in (shape, shape[:-1] if shape[-1] == 1 else shape)
        return to_pictures(array[None] if single else array, shape, path.name)
    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
            upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
        elif upright.mode in ("I", "F"):
            raise ValueError("pixels of 32 bits; save it with 8")
        converted = upright.convert("RGBA").convert(MODES[shape[-1]])  # a palette's transparency needs the detour
    height, width = shape[:2]
    if converted.size != (width, height):
        found.resized += 1
        converted = converted.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(converted).reshape(1, *shape)


def _notes(found: _Found, shape: Shape) -> Iterable[str]:
    if found.resized:
        yield f"{found.resized:,} of them were resized to {shape[1]}x{shape[0]} pixels, whatever their proportions"
    if found.ignored:
        yield f"{found.ignored:,} other files were left out: only PNG, JPEG and npy files in class folders are read"
    if found.unreadable:
        yield f"{len(found.unreadable):,} files could not be read and were left out:"
        yield from found.unreadable[:SHOWN]
        if len(found.unreadable) > SHOWN:
            yield f"  and {len(found.unreadable) - SHOWN:,} more"
