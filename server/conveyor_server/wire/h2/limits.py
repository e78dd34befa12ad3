"""What a peer may make the server hold and wait for. Numbers and decisions; no I/O, no clock of its own."""

from dataclasses import dataclass, field
from enum import Enum, StrEnum

from conveyor_server.wire.connection_limits import ConnectionLimits


@dataclass(frozen=True)
class Limits(ConnectionLimits):
    """Bytes, counts and seconds. Infinite where nothing is limited.

    At `max_connections` the longest idle connection gives way to a new one. Headers of more than `header_bytes` end
    their call; 64 KiB of them end the connection. What gRPC's core counts in `ping_seconds` is counted in frames here.
    """

    max_waiting_calls: int = 1000
    """Inferences that may be in progress; more are refused before they are read."""
    held_bytes_per_connection: int = 128 * 2**20
    """Requests that are not whole yet, and answers that the client does not read."""
    held_bytes: int = 512 * 2**20
    """The same over all connections, and what open calls take by themselves."""
    greeting_seconds: float = 10.0
    """How long a connection may take to begin with HTTP/2."""
    stall_seconds: float = 20.0
    """How long a client may read nothing of an answer that waits for it."""
    slowest_request: float = 4096.0
    """Bytes a second that a request must come with, once it has taken `stall_seconds`."""


class Ledger:
    """Bytes that peers make the server hold, over all connections.

    Args:
        limit: how many they may be.
    """

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @property
    def is_over(self) -> bool:
        """Whether someone must go."""
        return self.held > self.limit


class Action(Enum):
    """What to do about a connection."""

    NOTHING = "nothing"
    PING = "ask whether it lives"
    LEAVE = "take no new calls, and close when the current ones have ended"
    CUT = "close at once"


class Ending(StrEnum):
    """Why a connection ends before its client wants it to."""

    AGE = "age"
    IDLE = "idle"
    PLACE = "another needs its place"
    PROTOCOL = "breach of protocol"
    GREETING = "no greeting"
    SILENCE = "no answer to a ping"
    UNREAD = "answers not read"
    MEMORY = "held the most memory"
    WASTE = "took time for nothing"
    BALANCE = "another worker has fewer"
    STOP = "server stops"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action, and why."""

    action: Action = Action.NOTHING
    reason: Ending = Ending.STOP


@dataclass(slots=True)
class Sight:
    """What can be seen of a connection at some moment."""

    greeted: bool
    """Whether the peer has begun with HTTP/2."""
    calls: int
    """Open ones."""
    opened: int
    """Calls so far."""
    received: int
    """Bytes so far."""
    sent: int
    """Bytes that have left the process so far."""
    unsent: int
    """Bytes that wait to leave."""


_FINE = Verdict()


@dataclass(slots=True)
class Patience:
    """How long a connection has been what it is, and when that is too long.

    Args:
        limits: what is too long.
        now: seconds, on the caller's clock, as in `judge`.
        jitter: from 0.9 to 1.1; spreads the ages.
    """

    limits: Limits
    now: float
    jitter: float = 1.0
    _began: float = field(init=False)
    _received: int = field(init=False, default=0)
    _heard: float = field(init=False)
    _sent: int = field(init=False, default=0)
    _progressed: float = field(init=False)
    _opened: int = field(init=False, default=0)
    _busy: float = field(init=False)
    _asked: float | None = field(init=False, default=None)
    _left: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._began = self._heard = self._progressed = self._busy = self.now

    def leaves(self, now: float) -> None:
        """The connection takes no new calls from now on."""
        if self._left is None:
            self._left = now

    def idle_for(self, now: float) -> float:
        """Seconds since a call was last seen."""
        return now - self._busy

    def judge(self, now: float, sight: Sight) -> Verdict:
        """What to do now, after having seen this."""
        self._note(now, sight)
        limits = self.limits
        if not sight.greeted:
            late = now - self._began >= limits.greeting_seconds
            return Verdict(Action.CUT, Ending.GREETING) if late else _FINE
        if sight.unsent and now - self._progressed >= limits.stall_seconds:
            return Verdict(Action.CUT, Ending.UNREAD)
        if self._asked is not None and now - self._asked >= limits.keepalive_timeout_seconds:
            return Verdict(Action.CUT, Ending.SILENCE)
        if self._left is not None:
            late = now - self._left >= limits.age_grace_seconds
            return Verdict(Action.CUT, Ending.AGE) if late else _FINE
        if now - self._began >= limits.age_seconds * self.jitter:
            return Verdict(Action.LEAVE, Ending.AGE)
        if now - self._busy >= limits.idle_seconds:
            return Verdict(Action.LEAVE, Ending.IDLE)
        if self._asked is None and now - self._heard >= limits.keepalive_seconds:
            self._asked = now
            return Verdict(Action.PING)
        return _FINE

    def _note(self, now: float, sight: Sight) -> None:
        if sight.received != self._received:
            self._received, self._heard, self._asked = sight.received, now, None
        if sight.sent != self._sent or not sight.unsent:
            self._sent, self._progressed = sight.sent, now
        if sight.calls or sight.opened != self._opened:
            self._opened, self._busy = sight.opened, now

    def is_too_slow(self, seconds: float, received: int) -> bool:
        """Whether a request that has taken so long should have more bytes by now."""
        return seconds >= self.limits.stall_seconds and received < seconds * self.limits.slowest_request
