"""What a process holds while it works: memory, file descriptors, threads; and whether it grows."""

import asyncio
import gc
import itertools
import os
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

MIB = 2**20
Point = tuple[float, float]


class Held(NamedTuple):
    """What a process holds at some moment."""

    resident: int
    """Bytes."""
    descriptors: int
    threads: int


def held_by(process: int) -> Held:
    """What a process holds now."""
    status = Path(f"/proc/{process}/status").read_text()
    kibibytes, threads = (re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE) for name in ("VmRSS", "Threads"))
    return Held(int(kibibytes[1]) * 1024, len(os.listdir(f"/proc/{process}/fd")), int(threads[1]))


@contextmanager
def garbage() -> Iterator[list[object]]:
    """What is left for the garbage collector of our own by what happens in the `with` block; filled at its end."""
    found: list[object] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += [one for one in gc.garbage if type(one).__module__.startswith("conveyor_server")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def slope(points: Sequence[Point]) -> float:
    """The median of the slopes of all pairs of points (Theil and Sen): single jumps do not move it.

    Args:
        points: x and y, at least two different x.
    """
    return statistics.median((y - b) / (x - a) for (a, b), (x, y) in itertools.combinations(points, 2) if x != a)


class Watch:
    """Looks at a process four times a second while the `async with` block lasts.

    Attributes:
        points: seconds and bytes of resident memory.
    """

    def __init__(self, process: int) -> None:
        self.points: list[Point] = []
        self._process = process

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)

    def growth(self, settled: float = 0.4) -> float:
        """Bytes by which the memory grew, by its slope, after a part of the time in which it may settle."""
        points = self.points[int(len(self.points) * settled) :]
        thinned = points[:: max(1, len(points) // 400)]  # the pairs are many
        return slope(thinned) * (points[-1][0] - points[0][0])

    async def _look(self) -> None:
        while True:
            self.points.append((time.monotonic(), held_by(self._process).resident))
            await asyncio.sleep(0.25)
