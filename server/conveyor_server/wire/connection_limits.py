"""What connections may take, whatever carries them. Numbers only: each transport keeps to them in its own way."""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of the connections of one port. Times are in seconds; `inf` where nothing is limited."""

    max_message_bytes: int = 64 * 2**20
    """Of one request or response, after decompression."""
    max_connections: int = 4096
    """More are closed at once."""
    max_streams: int = 4096
    """Calls that may be open on one connection."""
    header_bytes: int = 16 * 2**10
    """Of the headers of one call: room for a long token and a trace's baggage."""
    age_seconds: float = inf
    """How long a connection is used for new calls, 10 % more or less, so that not all of them end together."""
    age_grace_seconds: float = inf
    """How long its calls may go on after that."""
    idle_seconds: float = inf
    """How long it may be without a call."""
    keepalive_seconds: float = inf
    """After how much silence it is asked whether it lives."""
    keepalive_timeout_seconds: float = 20.0
    """How long it may take to say so."""
    ping_seconds: float = 10.0
    """A client may ask so often whether the server lives, with or without calls; one that asks more often is closed. A
    ping costs microseconds, and connections through balancers and firewalls need one every minute or so."""
