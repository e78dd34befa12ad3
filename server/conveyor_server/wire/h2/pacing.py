"""How fast a connection is read: one that takes our time and asks for nothing of use waits. No I/O, no clock.

Answers earn a connection the right to take time; frames, headers and calls that lead to none use it up, and then that
of a purse for all. When that is empty too, the connection is not read for a hundred times as long as it took, and
longer the more of them wait. So whatever clients send in vain takes a few hundredths of the time, by however many
connections, and no kind of it needs a rule of its own.
"""

from dataclasses import dataclass, field

TURN_SECONDS, _LEAST_TURN = 0.001, 0.0001
"""What is read of a connection at a time takes about so long, or what it has a right to; then it is others' turn."""
READ_LEAST, READ_FIRST, READ_MOST = 2**10, 2**12, 2**18
"""Bytes that are read at a time: at first, four times as many as the last time at most, and the least after a wait."""
CALL_SECONDS = 0.0002
"""What an answer earns: ten times what a call takes that is answered in place."""
TASK_SECONDS = 0.0001
"""What a call takes later that needs a task of its own."""
BYTE_SECONDS = 1e-8
"""What each byte of a request that is answered earns: tensors may come as numbers that must be parsed."""
MESSAGE_SECONDS, MESSAGE_ANSWERED_SECONDS = 0.00002, 0.00005
"""What a message of a stream takes later, and what the answer to it earns."""
_CLOCK_SECONDS = 1e-6
"""Less than this was not measured."""
_COPY_SECONDS = 5e-10
"""What it takes to move a byte; frames that bring nothing, and headers, take many times as long."""
_MOST_AT_ONCE = 0.02
"""What one read can cost; above that it was the collector of garbage, or the like, that took the time."""
_FIRST_CREDIT, _MOST_CREDIT = 0.0005, 0.02
"""Seconds: enough for a greeting, and for a burst of a client that was answered before."""
_SHARE, _MOST_SAVED, _MOST_COVERED = 0.02, 0.05, 0.002
"""Of all time, and seconds: what connections may take in vain before any of them waits; and at once. What takes longer
keeps others waiting, however seldom it comes."""
_WAIT = 100.0
_LONGEST_WAIT = 5.0
_PATIENCE = 10.0
"""Seconds that a connection may wait in all without an answer in between. Then it has to go: its client may have gone
long ago, and have left more behind than would be read in a day."""


@dataclass(slots=True)
class Purse:
    """Seconds that all connections together may take in vain.

    Args:
        now: seconds, on the caller's clock, as in `cover`.

    Attributes:
        waiting: connections that are not read at present.
    """

    now: float
    waiting: int = 0
    _left: float = field(init=False, default=_MOST_SAVED)

    def cover(self, seconds: float, now: float) -> float:
        """Pays for so much as it can; returns what is not covered."""
        self._left = min(_MOST_SAVED, self._left + (now - self.now) * _SHARE)
        self.now = now
        paid = min(seconds, self._left, _MOST_COVERED)
        self._left -= paid
        return seconds - paid


@dataclass(slots=True)
class Pace:
    """Of one connection.

    Args:
        purse: what it shares with the others.

    Attributes:
        appetite: bytes to read next.
    """

    purse: Purse
    appetite: int = READ_FIRST
    _credit: float = field(init=False, default=_FIRST_CREDIT)
    _waited: float = field(init=False, default=0.0)

    @property
    def owes(self) -> bool:
        """Whether it has taken more than it may, and should wait."""
        return self._credit < 0

    @property
    def hopeless(self) -> bool:
        """Whether it has waited so long for nothing that it should go."""
        return self._waited > _PATIENCE

    def earn(self, seconds: float) -> None:
        """It was answered, or its calls take so long later."""
        if seconds > 0:
            self._waited = 0.0
        self._credit = min(_MOST_CREDIT, self._credit + seconds)

    def waited(self) -> None:
        """What it owed is forgiven."""
        self._credit = max(0.0, self._credit)

    def spend(self, size: int, seconds: float) -> None:
        """So many bytes for it took so long to send."""
        self._credit -= max(0.0, seconds - size * _COPY_SECONDS)

    def read(self, size: int, seconds: float, now: float) -> float:
        """So many bytes were read and took so long to handle. Returns for how many seconds not to read."""
        self.spend(size, min(seconds, _MOST_AT_ONCE))
        turn = max(_LEAST_TURN, min(TURN_SECONDS, self._credit))
        fitting = int(size * turn / seconds) if seconds > _CLOCK_SECONDS else READ_MOST
        self.appetite = max(READ_LEAST, min(fitting, 4 * self.appetite, READ_MOST))
        return self.wait(now) if self.owes else 0.0

    def wait(self, now: float) -> float:
        """Pays what it owes. Returns for how many seconds not to read because of what is left."""
        if self.owes:
            self._credit = -self.purse.cover(-self._credit, now)
        if not self.owes:
            return 0.0
        self.appetite = READ_LEAST
        wait = min(_LONGEST_WAIT, -self._credit * _WAIT * (1 + self.purse.waiting))
        self._waited += wait
        return wait
