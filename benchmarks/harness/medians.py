"""Medians and quantiles of repeated measurements."""

import statistics
from collections.abc import Iterable, Sequence
from math import nan


def quantile(ascending: Sequence[float], q: float) -> float:
    """The nearest rank of sorted values; nan of none."""
    return ascending[min(len(ascending) - 1, int(q * len(ascending)))] if ascending else nan


def median(values: Iterable[float]) -> float:
    """Nan of none."""
    kept = list(values)
    return statistics.median(kept) if kept else nan


def known(value: float | None) -> float:
    """Nan for None, which is how JSON says it."""
    return nan if value is None else value
