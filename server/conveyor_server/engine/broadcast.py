"""Tells whoever waits that something changed; what changed is for them to look up."""

import asyncio


class Broadcast:
    """An event that rings again and again. Used in the event loop's thread."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def notify(self) -> None:
        """Wakes everyone who waits now."""
        rung, self._next = self._next, asyncio.Event()
        rung.set()

    def listen(self) -> asyncio.Event:
        """What the next `notify` sets. Take it before looking things up, so that no change in between is missed."""
        return self._next

    async def wait(self) -> None:
        """Returns at the next `notify`."""
        await self._next.wait()
