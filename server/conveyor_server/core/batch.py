"""One request on its way (`Entry`), and rows that are run together (`Batch`): gathered once, handed back as views."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import numpy as np

from conveyor_server.core.errors import RequestError, ServerFailed
from conveyor_server.core.model import Array

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
    priority: int = 0
    """1 is served first; 0 means the model's default."""
    expires: float = inf
    """When its wait ends, on the caller's clock; a limit of the queue's policy, not of the client's deadline."""
    bytes: int = 0
    taken: int = 0
    """Rows that are in a batch already, or answered."""
    done: bool = False
    """Answered, failed or given up: the rest of the server has nothing more to do for it."""
    parts: dict[int, Sequence[Array]] | None = None
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
        return tuple(
            np.concatenate(
                [
                    entry.inputs[place] if stop - start == entry.rows else entry.inputs[place][start:stop]
                    for entry, start, stop in self.slices
                ]
            )
            for place in range(len(self.slices[0][0].inputs))
        )

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
                if entry.parts is None:
                    entry.parts = {}
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
