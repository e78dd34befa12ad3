"""Which calls travel in one request, and when it leaves. Plain state: no I/O, no clock, no threads, no arrays.

Calls of the same kind gather. Without a delay, a call leaves at once while a connection is free of its kind; those that
come meanwhile leave together when one is free again. With a delay, the first call waits that long for others. Either
way, what is full leaves at once. The same rules as the server's own for its batches.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

MAX_BYTES = 2 * 2**20
"""Of input in one gathered request: half of what gRPC servers take by default. Larger calls gain nothing."""

_T = TypeVar("_T")


@dataclass(eq=False, slots=True)
class Member(Generic[_T]):
    """One call that waits for company."""

    content: _T
    rows: int
    size: int
    """Bytes of input."""
    deadline: float
    reply: Any = None
    """Where the driver leaves what came of it."""
    request: "Gathered[_T] | None" = None
    """In which it travels."""


@dataclass(eq=False, slots=True)
class Gathered(Generic[_T]):
    """Calls of one kind that travel together. Once it has left, its members and their order stay what they are."""

    kind: Hashable
    members: list[Member[_T]] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    left: bool = False
    given_up: int = 0
    """Members that do not wait for the answer any more."""

    @property
    def deadline(self) -> float:
        """The latest of its members'."""
        return max(member.deadline for member in self.members)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.given_up == len(self.members)


@dataclass(eq=False, slots=True)
class _Kind(Generic[_T]):
    open: Gathered[_T] | None = None
    under_way: int = 0


class Gathering(Generic[_T]):
    """The calls of one client that wait for company, and the requests that they travel in.

    Args:
        rows: the most that one request carries.
        delayed: whether a request waits for company until the caller's `depart`, even while connections are free.
        connections: how many requests of a kind may be under way before others wait.
    """

    def __init__(self, rows: int, *, delayed: bool, connections: int) -> None:
        self.rows = rows
        self.max_bytes = MAX_BYTES
        self._delayed = delayed
        self._connections = connections
        self._kinds: dict[Hashable, _Kind[_T]] = {}

    def fits(self, rows: int, size: int, limit: int) -> bool:
        """Whether a call of so many rows and bytes leaves room for another, where the model takes `limit` rows."""
        return 0 < rows < min(limit, self.rows) and size < self.max_bytes

    def join(self, kind: Hashable, member: Member[_T], limit: int) -> list[Gathered[_T]]:
        """A call comes; returns the requests that leave now. Its own is `member.request`."""
        limit = min(limit, self.rows)
        state = self._kinds.setdefault(kind, _Kind())
        leaving = []
        if state.open and (state.open.rows + member.rows > limit or state.open.size + member.size > self.max_bytes):
            leaving.append(self._leave(state))
        request = state.open = state.open or Gathered(kind)
        member.request = request
        request.members.append(member)
        request.rows += member.rows
        request.size += member.size
        if request.rows == limit or request.size >= self.max_bytes or self._may_leave(state):
            leaving.append(self._leave(state))
        return leaving

    def depart(self, request: Gathered[_T]) -> list[Gathered[_T]]:
        """The delay of a request is over; returns it, unless it has left already."""
        return [] if request.left else [self._leave(self._kinds[request.kind])]

    def give_up(self, member: Member[_T]) -> None:
        """A caller does not wait any more. Nobody else notices, but for a request that is `abandoned` by all."""
        request = member.request
        assert request is not None, "Nobody gives up what never joined. This is a bug."
        if request.left:
            request.given_up += 1
            return
        request.members.remove(member)
        request.rows -= member.rows
        request.size -= member.size
        if not request.members:
            request.left = True
            self._kinds[request.kind].open = None
            self._forget(request.kind)

    def arrived(self, request: Gathered[_T]) -> list[Gathered[_T]]:
        """A request that left has ended, however; returns those that leave now."""
        state = self._kinds[request.kind]
        state.under_way -= 1
        if state.open and self._may_leave(state):
            return [self._leave(state)]
        self._forget(request.kind)
        return []

    def _may_leave(self, state: _Kind[_T]) -> bool:
        return not self._delayed and state.under_way < self._connections

    def _leave(self, state: _Kind[_T]) -> Gathered[_T]:
        request, state.open = state.open, None
        assert request is not None, "An empty request was to leave. This is a bug."
        request.left = True
        state.under_way += 1
        return request

    def _forget(self, kind: Hashable) -> None:
        state = self._kinds[kind]
        if not state.open and not state.under_way:
            del self._kinds[kind]
