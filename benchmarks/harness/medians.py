"""Medians and quantiles of repeated measurements."""

import statistics
from collections.abc import Iterable, Sequence


def quantile(ascending: Sequence[float], q: float) -> float:
    """The nearest rank of sorted values; nan of none."""
    return ascending[min(len(ascending) - 1, int(q * len(ascending)))] if ascending else float("nan")


def median(values: Iterable[float]) -> float:
    """Nan of none."""
    kept = list(values)
    return statistics.median(kept) if kept else float("nan")
