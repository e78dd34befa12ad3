"""Owns the structure of HDF5 as Keras' files use it: objects, groups, addresses. Knows nothing of values and of Keras.

The HDF5 library is not used: its parser is made for files that one trusts, and does not come to an end on some that are
damaged. Here every address is checked, and every file costs a bounded number of steps. Section numbers are those of the
HDF5 File Format Specification, version 3.0.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from conveyor_exporter.errors import ModelFileRefused

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = (1 << 64) - 1
MAX_MEMBERS = 5000
MAX_STEPS = 1_000_000
"""How many messages, members and texts are looked at in one file: some seconds of work, and enough for any network."""

# Kinds of header messages, section IV.A.2
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = (
    *(0x1, 0x2, 0x3, 0x6, 0x7),
    *(0x8, 0xB, 0xC, 0x10, 0x11),
)
SHARED = 0x2
_SOFT_LINK = 2


@dataclass(frozen=True)
class Header:
    """The messages of one object: what it is and where its parts lie.

    Attributes:
        messages: (start, size) of the messages of each kind.
    """

    messages: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def first(self, kind: int) -> tuple[int, int]:
        """Return the only message of a kind that there must be.

        Raises:
            ModelFileRefused: there is none.
        """
        if kind not in self.messages:
            raise ModelFileRefused("it is damaged: an object lacks a part of its description")
        return self.messages[kind][0]


class Hdf5Bytes:
    """An HDF5 file as bytes, with the structures that are read from it.

    Args:
        content: the file.

    Raises:
        ModelFileRefused: here and in each method, when the file is damaged or uses what Keras never writes.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._steps = MAX_STEPS
        if not content.startswith(SIGNATURE):
            raise ModelFileRefused("it is not HDF5, or its beginning is damaged")
        version, offsets, lengths = content[8:9], content[13:14], content[14:15]  # II.A
        if version not in (b"\0", b"\1") or offsets != b"\x08" or lengths != b"\x08":
            raise ModelFileRefused("it is in a form of HDF5 that Keras never writes; save the model again")
        base = 24 if version == b"\0" else 28
        start, _, end = self.unpack("<3Q", base)
        if start != 0 or end > len(content):
            raise ModelFileRefused(f"it should have {end:,} bytes and has {len(content):,}; it is truncated")
        self.root = self.unpack("<Q", base + 32 + 8)[0]

    def unpack(self, form: str, start: int) -> tuple[Any, ...]:
        """Return numbers at a place in the file."""
        try:
            return struct.unpack_from(form, self.content, start)
        except (struct.error, OverflowError) as error:
            raise ModelFileRefused(f"it is damaged: it points to byte {start:,}, which it does not have") from error

    def bytes_at(self, start: int, size: int) -> bytes:
        """Return bytes at a place in the file."""
        if start + size > len(self.content):
            raise ModelFileRefused(f"it is damaged: it points to byte {start + size:,}, which it does not have")
        return self.content[start : start + size]

    def header(self, address: int) -> Header:
        """Return the messages of the object at an address (IV.A.1.a)."""
        version, _, _, _, size = self.unpack("<BBHII", address)
        if version != 1:
            raise ModelFileRefused("it is damaged, or in a form of HDF5 that Keras never writes; save the model again")
        header, blocks = Header(), [(address + 16, size)]
        for place, length in blocks:  # grows on the way
            end = place + length
            while place + 8 <= end:
                kind, size, flags = self.unpack("<HHB", place)
                self.bytes_at(place + 8, size)
                self.step()
                if kind == CONTINUATION:
                    blocks.append(self.unpack("<QQ", place + 8))
                elif kind in (DATASPACE, DATATYPE, LAYOUT, ATTRIBUTE) and flags & SHARED:
                    raise ModelFileRefused("it shares descriptions between objects, which Keras never does")
                else:
                    header.messages.setdefault(kind, []).append((place + 8, size))
                place += 8 + size
        return header

    def members(self, group: Header) -> Mapping[str, int | None]:
        """Return the members of a group by name: where their headers lie, None for a link (III.A.1, III.B, III.D)."""
        if group.messages.keys() & {LINK_INFO, LINK}:
            raise ModelFileRefused("it has a link, or a group in a form that Keras never writes; save the model again")
        tree, heap = self.unpack("<QQ", group.first(SYMBOL_TABLE)[0])
        if self.bytes_at(heap, 4) != b"HEAP":
            raise ModelFileRefused("it is damaged: the names in a group are not where they should be")
        names_size, _, names = self.unpack("<3Q", heap + 8)
        found: dict[str, int | None] = {}
        for node in self._leaves(tree):
            for number in range(self.unpack("<H", node + 6)[0]):
                offset, address, cache = self.unpack("<QQI", node + 8 + 40 * number)
                name = self.name_at(names, min(names_size, len(self.content)), offset)
                self.step()
                found[name] = None if cache == _SOFT_LINK or address == UNDEFINED else address
                if len(found) > MAX_MEMBERS:
                    raise ModelFileRefused(f"a group has more than {MAX_MEMBERS} members")
        return found

    def _leaves(self, tree: int) -> Iterator[int]:
        """Yield where the lists of members lie that a tree leads to, each once."""
        waiting, seen = [tree], {tree}
        while waiting:
            node = waiting.pop()
            signature = self.bytes_at(node, 4)
            if signature == b"SNOD":
                yield node
                continue
            if signature != b"TREE":
                raise ModelFileRefused("it is damaged: the members of a group are not where they should be")
            kind, _, used = self.unpack("<BBH", node + 4)
            children = [self.unpack("<Q", node + 24 + 8 + 16 * number)[0] for number in range(used)]
            self.step(used + 1)
            if kind != 0 or len(set(children)) != used or seen.intersection(children):
                raise ModelFileRefused("it is damaged: the members of a group form no tree")
            seen.update(children)
            waiting += reversed(children)

    def step(self, count: int = 1) -> None:
        """Count work; a file that makes more of it than any network needs is refused."""
        self._steps -= count
        if self._steps < 0:
            raise ModelFileRefused("it is damaged, or made to take long: its parts refer to one another without end")

    def name_at(self, start: int, size: int, offset: int) -> str:
        """Return a name that ends in a zero byte, `offset` bytes into a part of `size` bytes."""
        if offset >= size:
            raise ModelFileRefused("it is damaged: a name is not where it should be")
        text = self.bytes_at(start + offset, min(size - offset, 1024))
        return text.partition(b"\0")[0].decode("utf-8", "backslashreplace")
