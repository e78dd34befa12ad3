"""A few fixed batch sizes for runtimes that prepare each new shape anew, as CUDA convolutions do. Pure."""

from collections.abc import Sequence

import numpy as np

from conveyor_server.core.model import Array


def bucket_sizes(run_size: int) -> tuple[int, ...]:
    """The powers of two below a full run, and the full run."""
    sizes = []
    size = 1
    while size < run_size:
        sizes.append(size)
        size *= 2
    return (*sizes, run_size)


def pad_to_bucket(inputs: Sequence[Array], buckets: Sequence[int]) -> list[Array]:
    """The inputs, filled up with zeros to the next of the rising batch sizes; as they are if they fit none."""
    rows = len(inputs[0])
    size = next((size for size in buckets if size >= rows), rows)
    if size == rows:
        return list(inputs)
    return [
        np.concatenate([array, np.full((size - rows, *array.shape[1:]), _nothing(array), array.dtype)])
        for array in inputs
    ]


def _nothing(array: Array) -> object:
    return "" if array.dtype == object else 0
