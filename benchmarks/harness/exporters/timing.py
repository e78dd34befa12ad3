"""How long an export takes: the median of several, in a process that has exported before."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

EXPORTS = 5


def timed_export(export: Callable[[Path], None], path: Path) -> float:
    """Seconds of the wall clock; the file is that of the last export."""
    seconds = []
    for _ in range(EXPORTS):
        start = time.perf_counter()
        export(path)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
