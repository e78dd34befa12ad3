"""The place of a process among those that serve the same port."""

from dataclasses import dataclass

from conveyor_server.wire.siblings import Siblings


@dataclass(frozen=True)
class Place:
    """One of several workers."""

    number: int
    """From 1."""
    count: int
    """Workers."""
    cpus: int
    """CPUs that this one may keep busy."""
    siblings: Siblings
    """How it reaches all of them, itself included."""
