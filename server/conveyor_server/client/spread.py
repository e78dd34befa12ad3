"""Which of several connections takes the next call: the one with the fewest calls under way. Knows no connection."""

from threading import Lock


class Spread:
    """Counts the calls under way on each of `connections`. Threads may share it."""

    def __init__(self, connections: int) -> None:
        self.under_way = [0] * connections
        self._lock = Lock()
        self._last = 0

    def take(self, wanted: int | None = None) -> int:
        """The number of the connection for one more call, if none is `wanted`; equally busy ones take turns."""
        with self._lock:
            chosen = self._last = self._idlest() if wanted is None else wanted
            self.under_way[chosen] += 1
        return chosen

    def give_back(self, connection: int) -> None:
        """A call on that connection has ended."""
        with self._lock:
            self.under_way[connection] -= 1

    def _idlest(self) -> int:
        count = len(self.under_way)
        if count == 1:
            return 0
        turns = [(self._last + step) % count for step in range(1, count + 1)]
        return min(turns, key=self.under_way.__getitem__)
