"""Whether a request is worth reading, when more come than can be answered. Plain numbers; knows no clock.

A request that is refused by its headers costs a quarter of one that is answered, and one that is answered too late
costs all of it. How much time a request must have left is learned from those that were late: that covers whatever keeps
them waiting, here, in the network, and behind others of the same client.
"""

from collections import Counter

from conveyor_server.core.errors import Overloaded, RequestError, TooLate
from conveyor_server.wire.h2.headers import Headers, refusal_headers
from conveyor_server.wire.status import STATUS_OF
from conveyor_server.wire.traffic import Traffic

_STEP_SECONDS = 0.001
_KEPT = 1 - 1 / 500
"""So one late answer in a few hundred holds the margin where it is."""
_MOST_SECONDS = 10.0


class Admission:
    """Decides on requests by what is in progress, and by what became of those before.

    Args:
        traffic: what is in progress.
        limit: requests that may be, those on streams not counted.

    Attributes:
        margin: seconds that a request must have left when it comes. Whoever waits for less than it takes only
            teaches it about himself: he is refused then, and what is refused teaches nothing.
        refused: requests that were turned away, by the error that stands for the reason.
    """

    def __init__(self, traffic: Traffic, limit: int) -> None:
        self.margin = 0.0
        self.refused: Counter[type[RequestError]] = Counter()
        self._traffic = traffic
        self._limit = limit
        self._full = _headers(
            Overloaded(f"{limit} requests are in progress, which is the limit. Retry later or on another replica.")
        )
        self._late = _headers(
            TooLate("The deadline cannot be met: requests that came with as little time left were answered too late.")
        )

    def refusal(self, timeout: float | None) -> Headers | None:
        """The answer to a request that should not be read; None when it should.

        Args:
            timeout: seconds that its client is willing to wait; None for any time.
        """
        # Streams hold their clients up by themselves, and one who does not read would count for ever.
        waiting = self._traffic.in_progress - self._traffic.streamed
        if waiting >= self._limit:
            self.refused[Overloaded] += 1
            return self._full
        # With nothing in progress any is welcome: what was learned may be true no more.
        if timeout is not None and timeout < self.margin and waiting:
            self.refused[TooLate] += 1
            return self._late
        return None

    def was_answered(self) -> None:
        """A request was answered, and its client was still there."""
        self.margin *= _KEPT

    def was_late(self) -> None:
        """A request was not answered before its deadline."""
        self.margin = min(self.margin + _STEP_SECONDS, _MOST_SECONDS)


def _headers(error: RequestError) -> Headers:
    return refusal_headers(STATUS_OF[type(error)], str(error))
