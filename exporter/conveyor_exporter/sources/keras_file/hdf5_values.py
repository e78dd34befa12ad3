"""Owns how HDF5 stores values as Keras' files use it: datasets and attributes, their types, shapes and texts.

Section numbers are those of the HDF5 File Format Specification, version 3.0. Knows nothing of Keras.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.sources.keras_file.hdf5_format import (
    ATTRIBUTE,
    DATASPACE,
    DATATYPE,
    EXTERNAL_FILES,
    FILTERS,
    LAYOUT,
    UNDEFINED,
    Hdf5Bytes,
    Header,
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Datatype:
    """What one element is (IV.A.2.d).

    Attributes:
        kind: `float32`, `opaque` (bytes without a meaning), `text` (of one length), `texts` (each of its own length),
            or `other`.
        size: bytes of an element.
    """

    kind: str
    size: int


@dataclass(frozen=True)
class Values:
    """A dataset or an attribute: elements in the file, in one piece.

    Attributes:
        datatype: what one element is.
        shape: None when there are no elements at all.
        start: where the first one lies in the file.
        stored: how many bytes there are.
    """

    datatype: Datatype
    shape: Shape | None
    start: int
    stored: int


def dataset_values(file: Hdf5Bytes, header: Header) -> Values:
    """Return what a dataset holds; it must lie in this file, in one piece, unpacked (IV.A.2.i)."""
    if EXTERNAL_FILES in header.messages:
        raise ModelFileRefused("keeps its values in another file")
    place, size = header.first(LAYOUT)
    version, layout = file.unpack("<BB", place)
    if layout == 3:
        raise ModelFileRefused("is put together from other datasets")
    if layout == 2 or FILTERS in header.messages:
        raise ModelFileRefused("is packed or in pieces, which Keras never writes; save the model again")
    if version != 3 or layout > 1 or size < 4:
        raise ModelFileRefused("is laid out in a way that Keras never writes; save the model again")
    if layout == 0:
        start, stored = place + 4, file.unpack("<H", place + 2)[0]
    else:
        start, stored = file.unpack("<QQ", place + 2)
        start, stored = (0, 0) if start == UNDEFINED else (start, stored)
    file.bytes_at(start, stored)
    datatype, shape = header.first(DATATYPE), header.first(DATASPACE)
    return Values(_datatype(file, datatype[0]), _shape(file, shape[0]), start, stored)


def attributes(file: Hdf5Bytes, header: Header) -> Mapping[str, Values]:
    """Return the attributes of an object by name (IV.A.2.m)."""
    found: dict[str, Values] = {}
    for place, size in header.messages.get(ATTRIBUTE, ()):
        file.step()
        version, flags, name_size, type_size, space_size = file.unpack("<BB3H", place)
        if version not in (1, 2, 3) or (version > 1 and flags):
            raise ModelFileRefused("it is damaged: an attribute is of an unknown version")
        name = place + (9 if version == 3 else 8)
        step = 8 if version == 1 else 1  # the first version fills each part up
        datatype = name + -(-name_size // step) * step
        shape = datatype + -(-type_size // step) * step
        start = shape + -(-space_size // step) * step
        text = file.name_at(name, name_size, 0)
        found[text] = Values(_datatype(file, datatype), _shape(file, shape), start, max(0, place + size - start))
    return found


def text_in_heap(file: Hdf5Bytes, reference: int, limit: int) -> bytes:
    """Return a text of its own length, referred to at a place in the file (III.E, IV.B)."""
    length, collection, index = file.unpack("<IQI", reference)
    if length == 0:
        return b""
    if length > limit or file.bytes_at(collection, 4) != b"GCOL":
        raise ModelFileRefused("it is damaged, or has a text that is too long")
    end = collection + file.unpack("<Q", collection + 8)[0]
    place = collection + 16
    while place < end:
        file.step()
        number, _, size = file.unpack("<HHxxxxQ", place)
        if number == index:
            return file.bytes_at(place + 16, length) if length <= size else b""
        if number == 0:  # the free rest of the collection
            break
        place += 16 + -(-size // 8) * 8
    raise ModelFileRefused("it is damaged: a text is not where it should be")


def _datatype(file: Hdf5Bytes, place: int) -> Datatype:
    start, bits, size = file.unpack("<BB2xI", place)
    kind = start & 0xF
    if kind == 1 and size == 4 and not bits & 1 and file.unpack("<HHBBBBI", place + 8) == (0, 32, 23, 8, 0, 23, 127):
        return Datatype("float32", size)
    named = {3: "text", 5: "opaque", 9: "texts" if bits & 0xF == 1 else "other"}
    return Datatype(named.get(kind, "other"), size)


def _shape(file: Hdf5Bytes, place: int) -> Shape | None:
    version, axes, _, kind = file.unpack("<4B", place)
    if version not in (1, 2) or axes > 32:
        raise ModelFileRefused("it is damaged: a shape cannot be read")
    if version == 2 and kind == 2:
        return None
    return file.unpack(f"<{axes}Q", place + (8 if version == 1 else 4))
