"""A connection that another process has accepted, which wants to hear when it has ended."""

from collections.abc import Callable

from conveyor_server.wire.h2.connection import Connection, Hub


class AdoptedConnection(Connection):
    """One connection, from its first byte to its last.

    Args:
        hub: what it shares with the others.
        ended: called once, when its socket is closed.
    """

    def __init__(self, hub: Hub, ended: Callable[[], None]) -> None:
        super().__init__(hub)
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has gone."""
        super().connection_lost(exc)
        self._ended()
