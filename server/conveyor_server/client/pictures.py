"""Picture files to model inputs, and pictures on a terminal. The only module that imports Pillow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from conveyor_server.client.descriptions import ModelDescription

try:
    from PIL import Image, UnidentifiedImageError
except ModuleNotFoundError as error:
    raise SystemExit("Reading pictures needs Pillow: pip install 'conveyor-server[client]'") from error

PICTURE_SUFFIXES = frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)
"""Ends of the names of files that may be pictures, in lower case with their dot."""

_UPPER_HALF = "▀"


class PictureError(ValueError):
    """A picture that cannot be read, or a model that takes none. The text says which and why."""


@dataclass(frozen=True)
class Picture:
    """One picture as the model wants it."""

    pixels: NDArray[np.uint8]
    """`[height, width, channels]`"""
    resized_from: tuple[int, int] | None
    """Height and width in the file, where they are not the model's."""


def picture_shape(model: ModelDescription) -> tuple[int, int, int]:
    """Height, width and channels of the pictures that a model takes.

    Raises:
        PictureError: its input is not `[batch, height, width, 1 or 3]`.
    """
    shape = model.inputs[0].shape
    if len(model.inputs) != 1 or len(shape) != 4 or shape[3] not in (1, 3) or shape[1] < 1 or shape[2] < 1:
        raise PictureError(
            f"Model '{model.name}' takes no pictures: its input is {list(shape)}, expected [-1, height, width, 1 or 3]."
        )
    return shape[1], shape[2], shape[3]


def read_picture(path: Path, shape: tuple[int, int, int]) -> Picture:
    """Reads a picture file, turns it to grey or RGB, and resizes it where it must.

    Raises:
        PictureError: not there, or not a picture.
    """
    height, width, channels = shape
    try:
        with Image.open(path) as image:
            found = (image.height, image.width)
            converted = image.convert("L" if channels == 1 else "RGB")
            if found != (height, width):
                converted = converted.resize((width, height), Image.Resampling.LANCZOS)
            pixels = np.asarray(converted, np.uint8).reshape(shape)
    except UnidentifiedImageError as error:
        raise PictureError(f"'{path}' is not a picture that can be read (PNG, JPEG and others).") from error
    except (OSError, Image.DecompressionBombError) as error:
        raise PictureError(f"'{path}' cannot be read: {error}") from error
    return Picture(pixels, found if found != (height, width) else None)


def as_input(pictures: list[Picture], model: ModelDescription) -> NDArray[np.generic]:
    """The batch `[len(pictures), height, width, channels]`, scaled to the model's range unless it takes uint8."""
    batch = np.stack([picture.pixels for picture in pictures])
    tensor = model.inputs[0]
    if tensor.datatype == "UINT8":
        return batch
    low, high = model.input_range
    return (low + batch.astype(np.float64) * (high - low) / 255).astype(tensor.dtype)


def render(picture: Picture) -> Text:
    """The picture for a terminal that knows colours, two pixels a character."""
    pixels = np.broadcast_to(picture.pixels, (*picture.pixels.shape[:2], 3))
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    text = Text()
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        for (r, g, b), (r2, g2, b2) in zip(upper, lower, strict=True):
            text.append(_UPPER_HALF, style=f"rgb({r},{g},{b}) on rgb({r2},{g2},{b2})")
        text.append("\n")
    return text
