"""Requests that wait for a runner, and what is run next. Plain state: no clock, no threads, no I/O.

Times are seconds on the caller's clock, passed in. Limits count rows and bytes, because requests differ in size.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from conveyor_server.core.batch import Batch, Entry, fail
from conveyor_server.core.errors import DeadlineExceeded, Overloaded, WaitExpired

MOST_ENTRIES = 128
"""In one batch, also where a run would take more: answering so many takes about half a millisecond at once."""


@dataclass(frozen=True)
class LevelPolicy:
    """How requests of one priority level may wait, in the terms of the protocol's queue policy."""

    max_requests: int = 0
    """Requests that may wait at this level; 0 leaves it to the limits of the whole queue."""
    timeout: float = 0.0
    """Seconds that a request may wait; 0 sets no limit."""
    allow_override: bool = False
    """Whether a request may ask for a shorter wait."""
    delay_on_timeout: bool = False
    """Whether a request that waited too long goes behind all others, instead of being refused."""

    def expiry(self, now: float, asked: float | None) -> float:
        """When the wait of a request that arrives now ends, if it asked for so many seconds."""
        limits = [self.timeout] if self.timeout else []
        if self.allow_override and asked:
            limits.append(asked)
        return now + min(limits) if limits else inf


@dataclass(frozen=True)
class QueuePolicy:
    """What may wait for a model, in which order, and for how long."""

    max_rows: int
    max_bytes: int
    max_delay: float = 0.0
    """Seconds that the oldest entry may be held back for a full batch; 0 holds nothing back."""
    preferred_rows: tuple[int, ...] = ()
    """Batch sizes that end the holding back."""
    levels: int = 1
    """Priority levels; level 1 is served first."""
    default_level: int = 1
    default: LevelPolicy = LevelPolicy()
    by_level: Mapping[int, LevelPolicy] = field(default_factory=dict)


def _same_form(one: Entry, other: Entry) -> bool:
    """Whether two entries fit in one batch: where the model leaves inner axes open, requests may differ in them."""
    for a, b in zip(one.inputs, other.inputs, strict=True):  # noqa: SIM110 - for every request; `all` costs thrice this
        if a.shape[1:] != b.shape[1:]:
            return False
    return True


class BatchQueue:
    """Highest priority first, then first in, first out; bounded in rows and bytes.

    Args:
        run_size: rows of a full batch. Entries up to this size are never split; larger ones fill whole runs.
        policy: the limits.
        mixed: whether entries may differ in axes other than the batch's; those do not share a batch.
    """

    def __init__(self, run_size: int, policy: QueuePolicy, *, mixed: bool = True) -> None:
        self.run_size = run_size
        self.rows = 0
        self.bytes = 0
        self._policy = policy
        self._mixed = mixed
        self._max_delay = policy.max_delay
        self._level_policies = [policy.by_level.get(level, policy.default) for level in range(1, policy.levels + 1)]
        # One line for each level, and behind them one for those that waited too long.
        self._lines: list[deque[Entry]] = [deque() for _ in range(policy.levels + 1)]
        self._waiting = [0] * policy.levels
        """Requests of each level that wait."""

    def push(self, entry: Entry, timeout: float | None = None) -> None:
        """Queues the entry, which may have asked to wait so many seconds at most.

        Raises:
            Overloaded: it does not fit beside what waits. Nothing was changed.
        """
        policy = self._policy
        for array in entry.inputs:
            entry.bytes += array.nbytes
        if self.rows + entry.rows > policy.max_rows or self.bytes + entry.bytes > policy.max_bytes:
            raise Overloaded(
                f"Exceeds maximum queue size: {self.rows} of {policy.max_rows} rows and {self.bytes} of "
                f"{policy.max_bytes} bytes wait, {entry.rows} rows and {entry.bytes} bytes came. Retry later or on "
                "another replica."
            )
        level = entry.priority if 0 < entry.priority <= policy.levels else policy.default_level
        level_policy = self._level_policies[level - 1]
        if 0 < level_policy.max_requests <= self._waiting[level - 1]:
            raise Overloaded(
                f"Exceeds maximum queue size: {level_policy.max_requests} requests of priority {level} wait. Retry "
                "later or on another replica."
            )
        entry.priority = level
        if level_policy.timeout or level_policy.allow_override:
            entry.expires = level_policy.expiry(entry.arrived, timeout)
        self.rows += entry.rows
        self.bytes += entry.bytes
        self._waiting[level - 1] += 1
        self._lines[level - 1].append(entry)

    def discard(self, entry: Entry) -> None:
        """Gives up an entry that the client no longer wants: its place is free at once, and no run will hold it."""
        entry.done = True
        self._leave(entry)

    def hold_nothing_back(self) -> None:
        """From now on every entry leaves as soon as a runner is free."""
        self._max_delay = 0.0

    def next_batch(self, now: float) -> Batch | None:
        """The batch to run now, or None when nothing is due. Expired entries fail here and are never run."""
        size = self._size(now)
        batch = Batch()
        for line in self._lines if size else ():
            while line and batch.rows < size and len(batch.slices) < MOST_ENTRIES:
                entry = line[0]
                if (entry.done or entry.deadline <= now or entry.expires <= now) and self._is_over(entry, now):
                    line.popleft()
                    continue
                if self._mixed and batch.slices and not _same_form(entry, batch.slices[0][0]):
                    return batch
                rows = entry.rows - entry.taken
                if rows > size - batch.rows and entry.rows <= self.run_size:
                    return batch if batch.slices else None
                self._take(batch, line, min(rows, size - batch.rows))
        return batch if batch.slices else None

    def due_at(self) -> float | None:
        """When the next batch may leave: the past when nothing is held back, None when nothing waits."""
        if self.rows == 0:
            for line in self._lines:
                line.clear()  # only entries that were given up are left, if any
            return None
        return -inf if self._size(-inf) else self._oldest_arrival() + self._max_delay

    def _size(self, now: float) -> int:
        """Rows that the next batch may have; 0 while the entries are held back for more to come."""
        if self.rows == 0:
            return 0
        if self._max_delay == 0 or self.rows >= self.run_size or self._oldest_arrival() + self._max_delay <= now:
            return self.run_size
        return max((size for size in self._policy.preferred_rows if size <= self.rows), default=0)

    def _oldest_arrival(self) -> float:
        return min(next((entry.arrived for entry in line if not entry.done), inf) for line in self._lines)

    def _is_over(self, entry: Entry, now: float) -> bool:
        """Whether the head of a line waits no more: given up, expired, or moved behind all others."""
        if entry.deadline <= now:
            fail(entry, DeadlineExceeded("The request's deadline passed while it waited in the queue."))
        elif entry.expires <= now and not entry.done:
            if self._level_policies[entry.priority - 1].delay_on_timeout:
                entry.expires = inf
                self._lines[-1].append(entry)
                return True
            fail(entry, WaitExpired("Request timeout expired"))
        if entry.done:
            self._leave(entry)
        return entry.done

    def _take(self, batch: Batch, line: deque[Entry], rows: int) -> None:
        entry = line[0]
        batch.slices.append((entry, entry.taken, entry.taken + rows))
        batch.rows += rows
        if entry.taken + rows == entry.rows:
            line.popleft()
            self._leave(entry)
        else:
            entry.taken += rows
            self.rows -= rows

    def _leave(self, entry: Entry) -> None:
        """Ends the entry's stay: what is left of it waits no more. Harmless for one that has left already."""
        if entry.taken < entry.rows:
            self.rows -= entry.rows - entry.taken
            self.bytes -= entry.bytes
            self._waiting[entry.priority - 1] -= 1
            entry.taken = entry.rows
