"""Owns the way from the numbers in a file to the numbers that a network takes; knows no file format."""

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidData

Range = tuple[float, float]


def to_input_range(values: NDArray[np.generic], input_range: Range, owner: str) -> NDArray[np.float32]:
    """Return pixels as float32 in the input range.

    Args:
        values: uint8 and bool (0 to 255, and 0 to 1, spread over the range), or float in the range already.
        input_range: smallest and largest value that the network is to see.
        owner: what the message calls them.

    Raises:
        InvalidData: another type, values that are not finite, or outside the range.
    """
    low, high = input_range
    if values.dtype in (np.uint8, np.bool_):
        largest = 255 if values.dtype == np.uint8 else 1
        return (low + values.astype(np.float32) * np.float32((high - low) / largest)).astype(np.float32)
    if not np.issubdtype(values.dtype, np.floating):
        raise InvalidData(f"{owner} must be uint8 or floating point, got {values.dtype}. Write x.astype('uint8').")
    numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise InvalidData(f"{owner} has values that are nan or infinite.")
    if numbers.size and (numbers.min() < low or numbers.max() > high):
        raise InvalidData(
            f"{owner} reaches from {numbers.min():g} to {numbers.max():g}, outside the input range {low:g} to "
            f"{high:g}. Bring it into the range, save it as uint8, or set --input-range."
        )
    return numbers


def to_pictures(values: NDArray[np.generic], shape: Shape, owner: str) -> NDArray[np.generic]:
    """Return an array as [samples, *shape]; grey pictures may lack the axis of their one channel.

    Raises:
        InvalidData: the shape is another.
    """
    if shape[-1] == 1 and values.shape[1:] == shape[:-1]:
        values = values[..., None]
    if values.shape[1:] != shape:
        raise InvalidData(f"{owner} must have the shape [samples, {', '.join(map(str, shape))}], got {values.shape}.")
    return values
