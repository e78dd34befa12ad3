"""Counts the requests that are in progress, over all connections of a transport. Knows no transport."""

import asyncio

SILENCE_SECONDS = 0.1


class Traffic:
    """The requests that came, alone or on streams, and those of them that are not answered."""

    def __init__(self) -> None:
        self.came = 0
        self.in_progress = 0

    def begin(self, requests: int = 1) -> None:
        """So many came."""
        self.came += requests
        self.in_progress += requests

    def end(self, requests: int = 1) -> None:
        """So many were answered, refused or given up."""
        self.in_progress -= requests

    async def silence(self) -> None:
        """Returns when all are answered and no more come."""
        seen = -1
        while self.in_progress or self.came != seen:
            seen = self.came
            await asyncio.sleep(SILENCE_SECONDS)
