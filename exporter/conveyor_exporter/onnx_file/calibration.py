"""Owns which pictures int8 is calibrated with, so that what it costs is measured on others. Knows no model."""

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.errors import InvalidInput
from conveyor_exporter.pictures.labelled_data import LabelledData

CALIBRATION_SAMPLES = 256
FEWEST = 10
"""Of pictures to calibrate with, and of pictures to measure on; with fewer, neither means anything."""


def calibration_pictures(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return up to 256 of the pictures, the same ones each time, drawn from all of them.

    Raises:
        InvalidInput: there are fewer than 10.
    """
    if len(images) < FEWEST:
        raise InvalidInput(f"int8 is calibrated with at least {FEWEST} pictures, got {len(images)}.")
    return np.ascontiguousarray(images[_drawn(len(images), min(len(images), CALIBRATION_SAMPLES))])


def split_off_calibration(data: LabelledData) -> tuple[NDArray[np.float32], LabelledData]:
    """Return pictures to calibrate with, up to 256 and at most half, and all others to measure on.

    Raises:
        InvalidInput: there are fewer than 20.
    """
    if len(data) < 2 * FEWEST:
        raise InvalidInput(
            f"int8 needs at least {2 * FEWEST} labelled pictures, some to calibrate with and others to measure on; "
            f"got {len(data)}."
        )
    drawn = _drawn(len(data), min(len(data) // 2, CALIBRATION_SAMPLES))
    others = np.setdiff1d(np.arange(len(data)), drawn)
    return np.ascontiguousarray(data.images[drawn]), LabelledData(data.images[others], data.labels[others])


def _drawn(size: int, count: int) -> NDArray[np.intp]:
    """Return row numbers at random: at even distances they could all be of one class."""
    return np.sort(np.random.default_rng(0).permutation(size)[:count])
