"""Owns what is asked of an HDF5 file: members, texts and arrays by path, each checked before memory is taken for it.

Knows nothing of Keras, and nothing of where things lie in the file.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.sources.keras_file import hdf5_format, json_text
from conveyor_exporter.sources.keras_file.hdf5_format import Hdf5Bytes, Header
from conveyor_exporter.sources.keras_file.hdf5_values import Values, attributes, dataset_values, text_in_heap
from conveyor_exporter.sources.keras_file.json_text import quoted

MAX_TEXTS = 5000

Array = NDArray[np.float32]
Path = tuple[str, ...]


class Hdf5:
    """An HDF5 file in memory.

    Args:
        content: the bytes of the file.
        what: how messages call the file.

    Raises:
        ModelFileRefused: the file is damaged.
    """

    def __init__(self, content: bytes, what: str) -> None:
        self.what = what
        self._content = content
        self._headers: dict[Path, Header | None] = {}
        self._members: dict[Path, Mapping[str, int | None]] = {}
        self._attributes: dict[Path, Mapping[str, Values]] = {}
        with self._naming(""):
            self._file = Hdf5Bytes(content)

    def members(self, path: Path) -> list[str] | None:
        """Return the names in a group, or None when there is no such group.

        Raises:
            ModelFileRefused: it is no group, has too many members, or the way to it is a link.
        """
        group = self._find(path)
        if group is None:
            return None
        members = self._members_of(path, group)
        if members is None:
            raise self.refusal(f"{_shown(path)} must be a group")
        return list(members)

    def text(self, path: Path, attribute: str) -> str | None:
        """Return an attribute that is one text, or None when there is no such group or attribute.

        Raises:
            ModelFileRefused: it is something else, or longer than JSON may be.
        """
        texts = self._texts(path, attribute, scalar=True)
        return None if texts is None else texts[0]

    def texts(self, path: Path, attribute: str) -> list[str] | None:
        """Return an attribute that is a list of texts, or None; one that Keras has split into numbered ones is joined.

        Raises:
            ModelFileRefused: it is something else, or too long.
        """
        whole = self._texts(path, attribute, scalar=False)
        if whole is not None:
            return whole
        joined: list[str] = []
        for number in range(MAX_TEXTS):
            part = self._texts(path, f"{attribute}{number}", scalar=False)
            if part is None:
                return joined if number else None
            joined += part
        raise self.refusal(f"{_shown(path)} has too many attributes {attribute!r}")

    def array(self, path: Path, shape: tuple[int, ...], owner: str) -> Array:
        """Return a dataset as float32.

        Args:
            path: the way to the dataset.
            shape: what it must have.
            owner: whose weight it is, for messages.

        Raises:
            ModelFileRefused: it is missing, has another shape or type, lies elsewhere, or is not finite.
        """
        title, header = f"{owner}: {_shown(path)}", self._find(path)
        if header is None or hdf5_format.LAYOUT not in header.messages:
            raise self.refusal(f"{owner}: there is no dataset {_shown(path)}")
        with self._naming(title):
            values = dataset_values(self._file, header)
        if values.shape != shape:
            raise self.refusal(f"{title} has shape {values.shape}, the layer needs {shape}")
        declared = math.prod(shape) * values.datatype.size
        if values.stored != declared:
            raise self.refusal(f"{title} declares {declared:,} bytes and stores {values.stored:,}")
        array = self._floats(path, values, title)
        if not np.isfinite(array).all():
            raise self.refusal(f"{title} holds nan or infinite values; did the training diverge?")
        return array.reshape(shape)

    def refusal(self, reason: str) -> ModelFileRefused:
        """Return the error for this file."""
        return ModelFileRefused(f"{self.what}: {reason}.")

    def _floats(self, path: Path, values: Values, title: str) -> Array:
        count = values.stored // max(values.datatype.size, 1)
        if values.datatype.kind == "float32":
            return np.frombuffer(self._content, "<f4", count, values.start).astype(np.float32)
        bfloat16 = values.datatype.kind == "opaque" and values.datatype.size == 2
        if bfloat16 and self.text(path, "dtype") in (None, "bfloat16"):  # the upper half of a float32's bits
            halves = np.frombuffer(self._content, "<u2", count, values.start)
            return (halves.astype(np.uint32) << 16).view(np.float32)
        raise self.refusal(
            f"{title} holds elements of another type ({values.datatype.kind}, {values.datatype.size} bytes); "
            "float32 is needed"
        )

    def _find(self, path: Path) -> Header | None:
        """Return what lies at a path, or None; follow nothing but plain members."""
        if path not in self._headers:
            self._headers[path] = self._look_up(path)
        return self._headers[path]

    def _look_up(self, path: Path) -> Header | None:
        if not path:
            with self._naming("/"):
                return self._file.header(self._file.root)
        group = self._find(path[:-1])
        members = None if group is None else self._members_of(path[:-1], group)
        if members is None or path[-1] not in members:
            return None
        address = members[path[-1]]
        if address is None:
            raise self.refusal(f"{_shown(path)} is a link, which is not followed")
        with self._naming(_shown(path)):
            return self._file.header(address)

    def _members_of(self, path: Path, group: Header) -> Mapping[str, int | None] | None:
        """Return the members of a group, None when it is no group."""
        if not group.messages.keys() & {hdf5_format.SYMBOL_TABLE, hdf5_format.LINK_INFO}:
            return None
        if path not in self._members:
            with self._naming(_shown(path)):
                self._members[path] = self._file.members(group)
        return self._members[path]

    def _texts(self, path: Path, attribute: str, scalar: bool) -> list[str] | None:
        header, title = self._find(path), f"the attribute {quoted(attribute)} of {_shown(path)}"
        if header is None:
            return None
        if path not in self._attributes:
            with self._naming(_shown(path)):
                self._attributes[path] = attributes(self._file, header)
        values = self._attributes[path].get(attribute)
        if values is None:
            return None
        count = math.prod(values.shape or ())
        if values.shape is None or len(values.shape) > 1 or (scalar and count != 1) or count > MAX_TEXTS:
            raise self.refusal(f"{title} has the shape {values.shape}")
        if count == 0:  # numpy has no type for an empty list of texts, so h5py stores floats
            return []
        kind, size = values.datatype.kind, values.datatype.size
        if kind not in ("text", "texts") or size * count > values.stored or (kind == "texts" and size != 16):
            raise self.refusal(f"{title} must be text")
        found, budget = [], json_text.MAX_BYTES
        for start in range(values.start, values.start + size * count, size):
            with self._naming(title):
                text = text_in_heap(self._file, start, budget) if kind == "texts" else self._file.bytes_at(start, size)
            budget -= len(text)
            if budget < 0:
                raise self.refusal(f"{title} is too long")
            found.append(text.rstrip(b"\0").decode("utf-8", "backslashreplace"))
        return found

    @contextmanager
    def _naming(self, title: str) -> Iterator[None]:
        """Put the file and the place in it in front of what is wrong."""
        try:
            yield
        except ModelFileRefused as error:
            raise self.refusal(f"{title} {error}".strip()) from error


def _shown(path: Path) -> str:
    return quoted("/".join(path) or "/")
