"""Clients that mean well, and what they notice: those that keep their connections, and those that come anew."""

import sys
import threading
import time
from types import TracebackType
from typing import Self

import numpy as np

from harness.http2 import Connection
from harness.medians import quantile
from harness.open_loop import Outcomes, Target, open_loop
from harness.results import Json

_PAUSE = 0.1
"""Seconds between two newcomers."""
sys.setswitchinterval(0.0002)  # the newcomers' thread must not be in the way of the others


class Newcomers:
    """Clients that come while the `with` block lasts, one after the other: a connection, a request, an answer.

    Attributes:
        seconds: from the first packet to the answer, of those that got one.
        lost: how many got none.
    """

    def __init__(self, target: Target) -> None:
        self.seconds: list[float] = []
        self.lost = 0
        self._target = target
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._come)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _come(self) -> None:
        while not self._over.wait(_PAUSE):
            begin = time.perf_counter()
            if self._ask():
                self.seconds.append(time.perf_counter() - begin)
            else:
                self.lost += 1

    def _ask(self) -> bool:
        try:
            connection = self._target.connect_once()
        except OSError:
            return False
        with connection.socket:
            end = time.perf_counter() + self._target.timeout
            connection.send(end, time.perf_counter())
            while time.perf_counter() < end and not connection.closed:
                connection.flush()
                time.sleep(0.0005)
                if ended := connection.receive():
                    return ended[0][1] == 0
        return False


def ask(target: Target, kept: list[Connection], rate: float, seconds: float) -> Json:
    """What both kinds notice for a while.

    Returns:
        p50, p99, worst: milliseconds of answers over the kept connections; asked, lost; newcomers: the same of those.
    """
    with Newcomers(target) as newcomers:
        outcomes = open_loop(target, rate, seconds, kept=kept)
    came = sorted(newcomers.seconds)
    return _describe(outcomes) | {
        "newcomers": {
            "p50": quantile(came, 0.5) * 1e3 if came else None,
            "worst": came[-1] * 1e3 if came else None,
            "asked": len(came) + newcomers.lost,
            "lost": newcomers.lost,
        }
    }


def _describe(outcomes: Outcomes) -> Json:
    status, latency = np.frombuffer(outcomes.status, np.int8), np.frombuffer(outcomes.latency) * 1e3
    answered = sorted(latency[status == 0].tolist())
    return {
        "p50": quantile(answered, 0.5) if answered else None,
        "p99": quantile(answered, 0.99) if answered else None,
        "worst": answered[-1] if answered else None,
        "asked": len(outcomes.lag),
        "lost": len(outcomes.lag) - len(answered),
    }
