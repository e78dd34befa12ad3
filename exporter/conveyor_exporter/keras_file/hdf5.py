"""Owns the reading of HDF5 from memory, with every detour of the format refused: links, other files, bombs.

The only module that imports h5py. Knows nothing of Keras.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.keras_file import json_text
from conveyor_exporter.keras_file.json_text import quoted

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_MEMBERS = 5000
MAX_TEXTS = 5000
MAX_TEXT_MEMORY = 256 << 20
_HEAP = re.compile(rb"GCOL\x01\0\0\0(.{8})", re.DOTALL)  # a collection of texts, HDF5 file format III.E

Array = NDArray[np.float32]
Path = tuple[str, ...]


class Hdf5:
    """An HDF5 file in memory; use it in a `with` statement.

    Args:
        content: the bytes of the file.
        what: how messages call the file.
    """

    def __init__(self, content: bytes, what: str) -> None:
        self.what = what
        self._content = content
        with self._refusing("it cannot be opened"):
            self._file = h5py.File(io.BytesIO(content), "r")
        with self._refusing("it cannot be opened"):
            sizes = self._file.id.get_create_plist().get_sizes()
        if sizes != (8, 8):
            raise self.refusal(f"addresses and lengths of {sizes} bytes are not what Keras writes")
        largest = max((int.from_bytes(match[1], "little") for match in _HEAP.finditer(content)), default=0)
        self._longest_text = min(largest, len(content))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._refusing("it cannot be closed"):
            self._file.close()

    def members(self, path: Path) -> list[str] | None:
        """Return the names in a group, or None when there is no such group.

        Raises:
            ModelFileRefused: there are too many, or the way to the group is a link.
        """
        with self._refusing(f"{_shown(path)} cannot be read"):
            group = self._find(path)
            if group is None:
                return None
            if not isinstance(group, h5py.Group):
                raise self.refusal(f"{_shown(path)} must be a group")
            if group.id.get_num_objs() > MAX_MEMBERS:
                raise self.refusal(f"{_shown(path)} has more than {MAX_MEMBERS} members")
            return [str(name) for name in group]

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
        """Return a dataset as float32, after a look at everything that can be known before reading it.

        Args:
            path: the way to the dataset.
            shape: what it must have.
            owner: whose weight it is, for messages.

        Raises:
            ModelFileRefused: it is missing, has another shape or type, lies elsewhere, or is not finite.
        """
        with self._refusing(f"{owner}: {_shown(path)} cannot be read"):
            dataset = self._find(path)
            if not isinstance(dataset, h5py.Dataset):
                raise self.refusal(f"{owner}: there is no dataset {_shown(path)}")
            self._check_storage(dataset, f"{owner}: {_shown(path)}")
            if dataset.shape != shape:
                raise self.refusal(f"{owner}: {_shown(path)} has shape {dataset.shape}, the layer needs {shape}")
            if dataset.dtype.str in ("<f4", ">f4"):
                values = np.asarray(dataset[()], np.float32)
            elif dataset.dtype.str == "|V2" and self._texts(path, "dtype", scalar=True) in (None, ["bfloat16"]):
                # the upper half of a float32's bits
                values = (np.asarray(dataset[()]).view("<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                raise self.refusal(f"{owner}: {_shown(path)} holds {quoted(dataset.dtype.str)}; float32 is needed")
        if not np.isfinite(values).all():
            raise self.refusal(f"{owner}: {_shown(path)} holds nan or infinite values; did the training diverge?")
        return values.reshape(shape)

    def refusal(self, reason: str) -> ModelFileRefused:
        """Return the error for this file."""
        return ModelFileRefused(f"{self.what}: {reason}.")

    def _check_storage(self, dataset: h5py.Dataset, title: str) -> None:
        """Accept a dataset whose values lie in this file, in one piece and unpacked, as Keras writes them."""
        properties = dataset.id.get_create_plist()
        if dataset.external or properties.get_external_count():
            raise self.refusal(f"{title} keeps its values in another file")
        if dataset.is_virtual or properties.get_layout() == h5py.h5d.VIRTUAL:
            raise self.refusal(f"{title} is put together from other datasets")
        if properties.get_layout() == h5py.h5d.CHUNKED or properties.get_nfilters():
            raise self.refusal(f"{title} is packed or in pieces, which Keras never writes; save the model again")
        stored, offset = dataset.id.get_storage_size(), dataset.id.get_offset() or 0
        if stored != dataset.nbytes or offset + stored > len(self._content):
            raise self.refusal(f"{title} declares {dataset.nbytes:,} bytes and stores {stored:,}")

    def _find(self, path: Path) -> Any:
        """Return what lies at a path, or None; follow nothing but plain members."""
        place: Any = self._file
        for depth, name in enumerate(path):
            if not isinstance(place, h5py.Group) or not name or "/" in name or name == ".":
                return None
            link = place.get(name, getlink=True)
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise self.refusal(f"{_shown(path[: depth + 1])} is a link, which is not followed")
            place = place[name]
        return place

    def _texts(self, path: Path, attribute: str, scalar: bool) -> list[str] | None:
        title = f"the attribute {quoted(attribute)} of {_shown(path)}"
        with self._refusing(f"{title} cannot be read"):
            place = self._find(path)
            if place is None or attribute not in place.attrs:
                return None
            identifier = place.attrs.get_id(attribute)
            count = int(np.prod(identifier.shape, dtype=np.float64))
            if len(identifier.shape) > 1 or (scalar and count != 1) or count > MAX_TEXTS:
                raise self.refusal(f"{title} has the shape {identifier.shape}")
            if count == 0:  # numpy has no type for an empty list of texts, so h5py stores floats
                return []
            kind = h5py.check_string_dtype(identifier.dtype)
            if kind is None:
                raise self.refusal(f"{title} must be text")
            longest = self._longest_text if kind.length is None else kind.length
            if count * longest > MAX_TEXT_MEMORY or (scalar and kind.length and kind.length > json_text.MAX_BYTES):
                raise self.refusal(f"{title} is too long")
            values = np.atleast_1d(np.asarray(place.attrs[attribute], dtype=object)).tolist()
            return [value.decode() if isinstance(value, bytes) else str(value) for value in values]

    @contextmanager
    def _refusing(self, reason: str) -> Iterator[None]:
        """Turn what h5py raises on a damaged file, which has no common root, into our error."""
        try:
            yield
        except ModelFileRefused:
            raise
        except Exception as error:
            detail = str(error).strip().partition("\n")[0]
            raise self.refusal(f"{reason}, the file is damaged: {quoted(detail)}") from error


def _shown(path: Path) -> str:
    return quoted("/".join(path) or "/")
