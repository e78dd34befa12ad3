"""Accepts connections, and hands each to a worker. Serves none; knows no protocol."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence

from conveyor_server.workers.worker_process import WorkerProcess

log = logging.getLogger(__name__)

_AT_ONCE = 64
"""Connections that are accepted in one turn of the event loop."""
_PAUSE_SECONDS = 1.0
"""How long nothing is accepted when the system has no place for one more connection."""


class Acceptor:
    """The listening sockets of a server with several workers.

    Args:
        sockets: they listen already.
        choose: who gets the next connection; None when nobody can take one. Then connections wait in the system.
    """

    def __init__(self, sockets: Sequence[socket.socket], choose: Callable[[], WorkerProcess | None]) -> None:
        self._sockets = list(sockets)
        self._choose = choose
        self._accepting = False
        self._pausing: asyncio.TimerHandle | None = None
        for listening in self._sockets:
            listening.setblocking(False)

    def resume(self) -> None:
        """Accepts, if anyone can take a connection. To be called whenever that may have changed."""
        if self._accepting or self._pausing or self._choose() is None:
            return
        self._accepting = True
        for listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Listens no more. Connections that were not accepted yet are refused."""
        self._stop_accepting()
        if self._pausing:
            self._pausing.cancel()
        for listening in self._sockets:
            if listening.family == socket.AF_UNIX:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(listening.getsockname())
            listening.close()
        self._sockets.clear()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            worker = self._choose()
            if worker is None:
                self._stop_accepting()
                return
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("No connection can be accepted now: %s.", error.strerror)
                self._stop_accepting()
                self._pausing = asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._go_on)
                return
            worker.hand(accepted.detach())

    def _stop_accepting(self) -> None:
        self._accepting = False
        for listening in self._sockets:
            asyncio.get_running_loop().remove_reader(listening)

    def _go_on(self) -> None:
        self._pausing = None
        self.resume()
