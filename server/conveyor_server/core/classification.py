"""The best classes of an output as strings, for clients that ask for classes instead of numbers.

An element is `value:index`, and `:label` after it where the model has labels; values have six decimals if they are
fractions. That is the form of the protocol's extension `classification`.
"""

from collections.abc import Sequence

import numpy as np

from conveyor_server.core.byte_strings import MAX_STRINGS
from conveyor_server.core.errors import InvalidRequest
from conveyor_server.core.model import Array

MAX_CLASSES = 1_000_000
"""Values in a row that are still sorted for a client."""

CLASSIFIED = frozenset(
    ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64")
)  # fmt: skip
"""Datatypes of outputs that can be classified."""


def classify(output: Array, count: int, *, batched: bool, labels: Sequence[str] = ()) -> Array:
    """The `count` highest values of each row, best first; of equal values the lower index comes first, NaN last.

    Args:
        output: `[rows, …]` where `batched`, else one row of any shape. All axes but the batch count as classes.
        count: how many classes are wanted; a row with fewer gives all it has.
        batched: whether the first axis counts rows.
        labels: names of the classes; those without one get none.

    Returns:
        `str` objects, `[rows, min(count, classes)]`, or `[min(count, classes)]` when not `batched`.

    Raises:
        InvalidRequest: a row has too many values to be sorted, or all rows together have too many classes.
    """
    rows = output.reshape(len(output) if batched else 1, -1) if output.size else output.reshape(len(output), 0)
    classes = rows.shape[1]
    if classes > MAX_CLASSES:
        raise InvalidRequest(f"classification output tensor too large: {classes} values, at most {MAX_CLASSES}")
    wanted = min(count, classes)
    if len(rows) * wanted > MAX_STRINGS:
        raise InvalidRequest(
            f"{wanted} classes of each of {len(rows)} rows are wanted; one request can have {MAX_STRINGS} in all"
        )
    form = "{:f}" if np.issubdtype(output.dtype, np.inexact) else "{}"
    result = np.empty((len(rows), wanted), np.object_)
    for number, values in enumerate(rows):
        for place, index in enumerate(_best(values)[:wanted].tolist()):
            label = f":{labels[index]}" if index < len(labels) else ""
            result[number, place] = f"{form.format(values[index])}:{index}{label}"
    return result if batched else result[0]


def _best(values: Array) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """Indices by falling value."""
    # Sorted backwards and turned round, so that unsigned values need no sign and equal ones keep their order; NaN
    # counts as the lowest.
    keys = np.where(np.isnan(values), -np.inf, values) if np.issubdtype(values.dtype, np.inexact) else values
    backwards = np.argsort(keys[::-1], kind="stable")[::-1]
    return len(values) - 1 - backwards
