"""The life of a server, phase by phase: start, serve, lame duck, drain, stop. Owns the signals, not what serves."""

import asyncio
import logging
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)


class Life(ABC):
    """The life of one process. Create it in a running event loop.

    Args:
        lame_duck_seconds: how long it serves on after SIGTERM, and says that it is not ready.
    """

    def __init__(self, lame_duck_seconds: float) -> None:
        self._lame_duck_seconds = lame_duck_seconds
        self._stop_signal: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serves until a signal says stop, and returns when everything accepted has been answered.

        Raises:
            StartError: it cannot serve on this machine; the text says what to do.
        """
        self._watch_signals()
        await self.start()
        serving = asyncio.ensure_future(self.serve())
        try:
            either: set[asyncio.Future[Any]] = {serving, self._stop_signal}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()  # a reason not to start at all
            if await self._stop_signal is signal.SIGTERM:
                await self._lame_duck()
            await self.drain()
        finally:
            serving.cancel()
            await self.stop()
            log.info("Stopped.")

    @abstractmethod
    async def start(self) -> None:
        """The ports answer from here on; nothing is ready yet. Closes what it has opened when it fails."""

    @abstractmethod
    async def serve(self) -> None:
        """Gets ready, and does whatever is to be done while the server runs. Cancelled at its end."""

    @abstractmethod
    async def reload(self) -> None:
        """Takes the models anew from the repository, without a failed request."""

    @abstractmethod
    def say_leaving(self) -> None:
        """Says that it is not ready, and serves on."""

    @abstractmethod
    async def drain(self) -> None:
        """Takes no new work, and finishes what was accepted."""

    @abstractmethod
    async def stop(self) -> None:
        """Closes what is open."""

    def abandon(self) -> None:
        """Ends at once what would not end with this process."""
        return

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        self._reload_wanted = asyncio.Event()
        self._reloading = loop.create_task(self._reload_when_wanted())
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop_signal.done():
            log.warning("%s again: leaving now, unanswered requests are lost.", number.name)
            self.abandon()
            logging.shutdown()
            os._exit(128 + number)
        log.info("%s: stopping. A second signal leaves at once.", number.name)
        self._reloading.cancel()
        self._stop_signal.set_result(number)

    async def _reload_when_wanted(self) -> None:
        """One reload after the other; a signal that comes during one asks for another."""
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            log.info("SIGHUP: taking the models anew.")
            try:
                await self.reload()
            except Exception:
                log.exception("The reload failed; what is served stays. This is a bug.")

    async def _lame_duck(self) -> None:
        """Says that it is not ready, and serves on, until balancers have turned away."""
        self.say_leaving()
        log.info("Not ready any more; serving on for %g s.", self._lame_duck_seconds)
        await asyncio.sleep(self._lame_duck_seconds)


def say_whether_ready(served: Sequence[str]) -> None:
    """Says in the log how the start came out.

    Args:
        served: the names of the models that answer.
    """
    if served:
        log.info("Ready: %s.", ", ".join(served))
    else:
        log.error("Not ready: no model is served; the reasons are above.")
