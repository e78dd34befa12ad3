"""Requests that wait for a runner, and the batches made of them. Plain state: no clock, no threads, no I/O.

Times are seconds on the caller's clock, passed in. Limits count rows and bytes, because requests differ in size.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import numpy as np

from conveyor_server.core.errors import DeadlineExceeded, Overloaded, RequestError, ServerFailed
from conveyor_server.core.tensors import Array

log = logging.getLogger(__name__)


class Reply(Protocol):
    """Where the answer to one entry goes. Exactly one of the two is called, once, unless the client has gone."""

    def answer(self, outputs: Sequence[Array]) -> None:
        """Takes the entry's own rows of every output of the model."""

    def fail(self, error: RequestError) -> None:
        """Takes the reason why there are no outputs."""


@dataclass(slots=True, eq=False)
class Entry:
    """One request on its way through the queue. It carries its own reply slot, so nothing is looked up by an id."""

    inputs: tuple[Array, ...]
    """One array for each input of the model, `[rows, …]` each."""
    rows: int
    reply: Reply
    deadline: float = inf
    arrived: float = 0.0
    bytes: int = 0
    taken: int = 0
    """Rows that are in a batch already, or answered."""
    done: bool = False
    """Answered, failed or given up: the rest of the server has nothing more to do for it."""
    parts: dict[int, Sequence[Array]] = field(default_factory=dict)
    """Outputs of the runs that an entry larger than one run is split into, by first row."""


@dataclass(slots=True, eq=False)
class Batch:
    """Rows of one or more entries that are run together."""

    slices: list[tuple[Entry, int, int]] = field(default_factory=list)
    """Entry, first row, row after the last."""
    rows: int = 0

    def gather(self) -> tuple[Array, ...]:
        """The model's inputs, `[rows, …]` each. A single slice is passed on as a view; several are copied once."""
        if len(self.slices) == 1:
            entry, start, stop = self.slices[0]
            return entry.inputs if self.rows == entry.rows else tuple(array[start:stop] for array in entry.inputs)
        columns = zip(
            *([array[start:stop] for array in entry.inputs] for entry, start, stop in self.slices), strict=True
        )
        return tuple(np.concatenate(column) for column in columns)

    def scatter(self, outputs: Sequence[Array]) -> None:
        """Gives each entry its own rows, as views. An entry that cannot take them does not touch the others."""
        position = 0
        for entry, start, stop in self.slices:
            rows = stop - start
            own = outputs if rows == self.rows else [output[position : position + rows] for output in outputs]
            position += rows
            if rows == entry.rows:
                _finish(entry, own)
            elif not entry.done:
                entry.parts[start] = own
                if sum(len(part[0]) for part in entry.parts.values()) == entry.rows:
                    parts = [entry.parts[first] for first in sorted(entry.parts)]
                    _finish(entry, [np.concatenate(column) for column in zip(*parts, strict=True)])

    def fail(self, error: RequestError) -> None:
        """Fails every entry of the batch that still waits, with the rows that it has elsewhere."""
        for entry, _, _ in self.slices:
            fail(entry, error)


def _finish(entry: Entry, outputs: Sequence[Array]) -> None:
    if entry.done:
        return
    entry.done = True
    try:
        entry.reply.answer(outputs)
    except Exception:  # whatever one reply does wrong, its batch-mates must get theirs
        log.exception("An answer could not be delivered. This is a bug.")
        entry.reply.fail(ServerFailed("The answer could not be built."))


def fail(entry: Entry, error: RequestError) -> None:
    """Ends an entry with an error, unless it has ended already."""
    if not entry.done:
        entry.done = True
        entry.reply.fail(error)


class BatchQueue:
    """First in, first out, bounded in rows and bytes.

    Args:
        run_size: rows of a full batch. Entries up to this size are never split; larger ones fill whole runs.
        max_rows: rows that may wait at once.
        max_bytes: input bytes that may wait at once.
        max_delay: seconds that the oldest entry may be held back for a full batch; 0 holds nothing back.
    """

    def __init__(self, *, run_size: int, max_rows: int, max_bytes: int, max_delay: float = 0.0) -> None:
        self.run_size = run_size
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.max_delay = max_delay
        self.rows = 0
        self.bytes = 0
        self._entries: deque[Entry] = deque()

    def push(self, entry: Entry) -> None:
        """Queues the entry.

        Raises:
            Overloaded: it does not fit beside what waits. Nothing was changed.
        """
        entry.bytes = sum(array.nbytes for array in entry.inputs)
        if self.rows + entry.rows > self.max_rows or self.bytes + entry.bytes > self.max_bytes:
            raise Overloaded(
                f"Exceeds maximum queue size: {self.rows} of {self.max_rows} rows and {self.bytes} of {self.max_bytes} "
                f"bytes wait, {entry.rows} rows and {entry.bytes} bytes came. Retry later or on another replica."
            )
        self.rows += entry.rows
        self.bytes += entry.bytes
        self._entries.append(entry)

    def discard(self, entry: Entry) -> None:
        """Gives up an entry that the client no longer wants: its place is free at once, and no run will hold it."""
        entry.done = True
        self._leave(entry)

    def next_batch(self, now: float) -> Batch | None:
        """The batch to run now, or None when nothing is due. Expired entries fail here and are never run."""
        due = self.due_at()
        if due is None or due > now:
            return None
        batch = Batch()
        while self._entries and batch.rows < self.run_size:
            entry = self._entries[0]
            if entry.deadline <= now:
                fail(entry, DeadlineExceeded("The request's deadline passed while it waited in the queue."))
            if entry.done:
                self._entries.popleft()
                self._leave(entry)
                continue
            room = self.run_size - batch.rows
            rows = entry.rows - entry.taken
            if rows > room and entry.rows <= self.run_size:
                break
            self._take(batch, entry, min(rows, room))
        return batch if batch.slices else None

    def due_at(self) -> float | None:
        """When the next batch may leave: the past when it is full or nothing is held back; None when all is empty."""
        if self.rows == 0:
            # Only entries that were given up are left, if any.
            self._entries.clear()
            return None
        if self.max_delay == 0 or self.rows >= self.run_size:
            return -inf
        return next(entry.arrived for entry in self._entries if not entry.done) + self.max_delay

    def _take(self, batch: Batch, entry: Entry, rows: int) -> None:
        batch.slices.append((entry, entry.taken, entry.taken + rows))
        batch.rows += rows
        if entry.taken + rows == entry.rows:
            self._entries.popleft()
            self._leave(entry)
        else:
            entry.taken += rows
            self.rows -= rows

    def _leave(self, entry: Entry) -> None:
        """Ends the entry's stay: what is left of it waits no more. Harmless for one that has left already."""
        if entry.taken < entry.rows:
            self.rows -= entry.rows - entry.taken
            self.bytes -= entry.bytes
            entry.taken = entry.rows
