"""Who used the cores during a measurement (the server, the load, others, the hypervisor), and the server's memory."""

import resource
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from harness.machine import core_time
from harness.running import RunningServer


class Watched:
    """What was used within the `with` block.

    Args:
        running: the server.
        load_cores: those of the load, which this process and those children of it are that end within the block.
    """

    def __init__(self, running: RunningServer, load_cores: Sequence[int]) -> None:
        self._running = running
        self._cores = {*running.cores, *load_cores}

    def __enter__(self) -> Self:
        self._before = self._clocks()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        after = self._clocks()
        self._spent = {name: after[name] - self._before[name] for name in after}

    @property
    def server_seconds(self) -> float:
        """CPU time of the server's processes."""
        return self._spent["server"]

    def shares(self) -> dict[str, float]:
        """CPU seconds a second, of the cores in use.

        Returns:
            server_busy; stolen by the hypervisor; others, what processes used that are neither server nor load.
        """
        spent = self._spent
        others = max(0.0, spent["busy"] - spent["server"] - spent["load"])
        return {
            "server_busy": spent["server"] / spent["time"],
            "stolen": spent["stolen"] / spent["time"],
            "others": others / spent["time"],
        }

    def _clocks(self) -> dict[str, float]:
        busy, stolen = core_time(self._cores)
        own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "busy": busy,
            "stolen": stolen,
            "server": self._running.cpu_seconds(),
            "load": own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime,
            "time": time.monotonic(),
        }


class Resident:
    """The resident memory of a server, looked at once a second while the `with` block lasts."""

    def __init__(self, running: RunningServer) -> None:
        self.mib: list[float] = []
        self._running = running
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(1.0):
            self.mib.append(self._running.memory().resident)
