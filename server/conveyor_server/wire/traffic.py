"""Counts the requests that are in progress, over all connections of a transport. Knows no transport."""

import asyncio

SILENCE_SECONDS = 0.1


class Traffic:
    """The requests that came, alone or on streams, and those of them that are not answered.

    Attributes:
        came: requests so far.
        in_progress: those that are not answered.
        streamed: those of them that came on streams, which also wait for their clients to read.
    """

    def __init__(self) -> None:
        self.came = self.in_progress = self.streamed = 0

    def begin(self, requests: int = 1) -> None:
        """So many came."""
        self.came += requests
        self.in_progress += requests

    def end(self, requests: int = 1) -> None:
        """So many were answered, refused or given up."""
        self.in_progress -= requests

    def begin_on_stream(self, requests: int) -> None:
        """So many came on a stream."""
        self.begin(requests)
        self.streamed += requests

    def end_on_stream(self, requests: int) -> None:
        """So many that had come on a stream were answered, refused or given up."""
        self.end(requests)
        self.streamed -= requests

    async def silence(self) -> None:
        """Returns when all are answered and no more come."""
        seen = -1
        while self.in_progress or self.came != seen:
            seen = self.came
            await asyncio.sleep(SILENCE_SECONDS)
