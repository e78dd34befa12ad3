"""A load generator for gRPC that keeps its rate whatever the server does, at tens of thousands of requests a second.

It sends one prepared request over plain HTTP/2 connections and reads no more of the answers than their status, which
is what makes it cheap: a grpcio client spends more on a request than the server under test. Latency counts from the
moment at which a request was due, so a client that falls behind cannot hide it.
"""

import select
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from harness.asking import MODEL_INFER
from harness.http2 import Connection

NO_ANSWER, NOT_SENT = -1, -2
"""Statuses of a request that had no answer when its deadline passed: the client cancels it then, or never sent it,
because the server's flow control or its limit on streams held it back.
"""
_ARRIVALS_AT_ONCE = 4096


@dataclass
class Outcomes:
    """How requests ended."""

    status: array = field(default_factory=lambda: array("b"))
    """gRPC's code, or NO_ANSWER, or NOT_SENT."""
    latency: array = field(default_factory=lambda: array("d"))
    """Seconds from when the request was due to its end."""
    lag: array = field(default_factory=lambda: array("f"))
    """Seconds by which the client itself looked too late at each request of a rate; not what HTTP/2's limits, which
    are the server's, then held it back."""
    seconds: float = 0.0
    """How long requests were offered."""
    cpu: float = 0.0
    """CPU seconds of the client a second: at 1 it was the client that set the rate."""


@dataclass
class Target:
    """What is asked, and where."""

    host: str
    port: int
    message: bytes
    """A serialized ModelInferRequest."""
    timeout: float
    """Deadline of each request, in seconds."""
    connections: int = 8
    method: str = MODEL_INFER

    def connect(self) -> list[Connection]:
        return [self.connect_once() for _ in range(self.connections)]

    def connect_once(self) -> Connection:
        return Connection(self.host, self.port, self.method, self.message, self.timeout)


def open_loop(
    target: Target, rate: float, seconds: float, seed: int = 0, kept: list[Connection] | None = None
) -> Outcomes:
    """Offers `rate` requests a second with Poisson arrivals, over connections that are `kept`, or new ones."""
    return _Load(target, seconds, arrivals=_poisson(rate, seed), kept=kept).run()


def closed_loop(target: Target, in_flight: int, seconds: float) -> Outcomes:
    """Keeps so many requests in flight."""
    return _Load(target, seconds, in_flight=in_flight).run()


def _poisson(rate: float, seed: int) -> Iterator[float]:
    """Seconds from the beginning at which requests are due, without end."""
    random, begin = np.random.default_rng(seed), 0.0
    while True:
        times = begin + np.cumsum(random.exponential(1 / rate, _ARRIVALS_AT_ONCE))
        begin = float(times[-1])
        yield from times.tolist()


class _Load:
    """One load, from its first request to its last answer."""

    def __init__(
        self,
        target: Target,
        seconds: float,
        *,
        arrivals: Iterator[float] | None = None,
        in_flight: int = 0,
        kept: list[Connection] | None = None,
    ) -> None:
        self._target, self._seconds = target, seconds
        self._arrivals, self._in_flight = arrivals, in_flight
        self._kept = kept
        self._connections = target.connect() if kept is None else kept
        self._outcomes = Outcomes(seconds=seconds)
        self._waiting: deque[float] = deque()
        """When the requests were due that are not sent yet."""
        self._left: set[Connection] = set()
        self._turn = 0
        self._busy = 0

    def run(self) -> Outcomes:
        connections, timeout = self._connections, self._target.timeout
        cpu, begin = time.process_time(), time.perf_counter()
        due = begin + next(self._arrivals) if self._arrivals else float("inf")
        end = begin + self._seconds
        while (now := time.perf_counter()) < end or (self._busy and now < end + timeout + 1.0):
            if now < end:
                while due <= now:
                    self._outcomes.lag.append(now - due)
                    self._waiting.append(due)
                    due = begin + next(self._arrivals)
                self._waiting.extend([now] * (self._in_flight - self._busy - len(self._waiting)))
            else:
                due = float("inf")
            self._send(now)
            self._give_up(now - timeout, now)
            pause = max(0.0, min(0.001, due - time.perf_counter()))
            for connection in select.select(connections, (), (), pause)[0]:  # epoll waits whole milliseconds
                self._receive(connection)
                if connection.leaving:
                    self._replace(connection)
            if all(connection.closed for connection in connections):
                break
        self._outcomes.cpu = (time.process_time() - cpu) / (time.perf_counter() - begin)
        if self._kept is None:
            for connection in connections:
                connection.socket.close()
        return self._outcomes

    def _send(self, now: float) -> None:
        waiting, connections = self._waiting, self._connections
        while waiting:
            if waiting[0] < now - self._target.timeout:
                self._note(NOT_SENT, now - waiting.popleft())
                continue
            for _ in connections:
                self._turn = (self._turn + 1) % len(connections)
                if connections[self._turn].ready:
                    break
            else:
                return
            self._busy += 1
            connections[self._turn].send(waiting.popleft(), now)

    def _give_up(self, due: float, now: float) -> None:
        for connection in self._connections:
            for gone in connection.cancel_before(due):
                self._busy -= 1
                self._note(NO_ANSWER, now - gone)
            connection.flush()

    def _receive(self, connection: Connection) -> None:
        ended = connection.receive()
        self._busy -= len(ended)
        arrived = time.perf_counter()
        self._outcomes.status.extend([status for _, status in ended])
        self._outcomes.latency.extend([arrived - due for due, _ in ended])

    def _replace(self, leaving: Connection) -> None:
        """Opens another connection, and leaves this one when its last answer is there."""
        if leaving not in self._left:
            self._left.add(leaving)
            self._connections.append(self._target.connect_once())
        if not leaving.open:
            leaving.socket.close()
            self._connections.remove(leaving)

    def _note(self, status: int, latency: float) -> None:
        self._outcomes.status.append(status)
        self._outcomes.latency.append(latency)
