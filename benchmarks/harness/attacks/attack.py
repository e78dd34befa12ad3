"""What an attack is: what each of its connections sends, and how it reads."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

Script = Iterator["bytes | float"]
"""Bytes to send, and seconds to pause between them. When it ends, the connection stays open and silent."""


class Reads(Enum):
    """How a client reads what the server sends."""

    ALL = "at once, and answers pings"
    NOTHING = "nothing"
    DRIBBLE = "a byte now and then"


@dataclass(frozen=True)
class Prey:
    """What a client has to know to ask something good."""

    inference: bytes
    """A ModelInferRequest that the server answers."""
    largest: int
    """Bytes that the largest request may have."""
    seconds: float
    """How long the attack lasts."""


@dataclass(frozen=True)
class Attack:
    """A way to harm a server.

    Attributes:
        name: on the command line.
        what: in a report.
        script: what a connection with this number does.
        connections: open at the same time.
        reads: how they read.
        again: seconds until another connection takes the place of one that was closed; None leaves it empty.
        hangs_up: whether a connection is closed from here when its script has ended.
    """

    name: str
    what: str
    script: Callable[[Prey, int], Script]
    connections: int = 4
    reads: Reads = Reads.ALL
    again: float | None = 0.05
    hangs_up: bool = False
