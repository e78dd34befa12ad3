"""Owns the zip that a `.keras` file is: which members there may be and how large. Knows nothing of what they mean."""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass

from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.sources.keras_file import json_text
from conveyor_exporter.sources.keras_file.json_text import quoted

MAX_BYTES = 512 << 20
"""Largest file that is read, and largest sum of what its members unpack to."""
MAX_EXPANSION = 100
"""How many times its packed size a member may have. Keras stores its members unpacked."""
MAX_DIRECTORY_BYTES = 64 << 10

METADATA, CONFIG, WEIGHTS = "metadata.json", "config.json", "model.weights.h5"

_END = struct.Struct("<4s4H2LH")  # end of the central directory, APPNOTE.TXT 4.3.16
_END_SIGNATURE, _ZIP64_SIGNATURE = b"PK\x05\x06", b"PK\x06\x07"
_ZIP64_LOCATOR_SIZE = 20


@dataclass(frozen=True)
class Members:
    """The members of a `.keras` file.

    Attributes:
        metadata: JSON with the version of Keras.
        config: JSON that describes the network.
        weights: an HDF5 file.
    """

    metadata: bytes
    config: bytes
    weights: bytes


def read_members(content: bytes) -> Members:
    """Return the members of a `.keras` file, each checked before it is unpacked.

    Raises:
        ModelFileRefused: it is damaged, too large, or not laid out as Keras does.
    """
    _check_directory(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _check_names([member.filename for member in members])
            for member in members:
                _check_member(member)
            if sum(member.file_size for member in members) > MAX_BYTES:
                raise ModelFileRefused(f"the members unpack to more than {MAX_BYTES:,} bytes in all.")
            return Members(*(archive.read(name) for name in (METADATA, CONFIG, WEIGHTS)))
    except ModelFileRefused:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, struct.error) as error:
        raise ModelFileRefused(f"the zip is damaged: {quoted(str(error))}. Copy the file again.") from error


def _check_directory(content: bytes) -> None:
    """Refuse a long list of members before anything parses it, and the form that only huge archives need."""
    start = content.rfind(_END_SIGNATURE)
    if start < 0 or len(content) - start < _END.size:
        raise ModelFileRefused("the zip ends too early; the file is truncated. Copy it again.")
    size = _END.unpack_from(content, start)[5]
    locator = content[max(0, start - _ZIP64_LOCATOR_SIZE) : start]
    if size > MAX_DIRECTORY_BYTES or locator.startswith(_ZIP64_SIGNATURE):
        raise ModelFileRefused("the zip lists far more members than the three of a .keras file.")


def _check_names(names: list[str]) -> None:
    wanted = {METADATA, CONFIG, WEIGHTS}
    for name in names:
        if name.startswith(("/", "\\")) or ".." in name or ":" in name:
            raise ModelFileRefused(f"the zip has a member that points outside of it: {quoted(name)}.")
        if names.count(name) > 1:
            raise ModelFileRefused(f"the zip has more than one member {quoted(name)}.")
    if any(name.endswith(".weights.json") or ".weights.npz" in name for name in names):
        raise ModelFileRefused(
            "the weights are split into several files or kept as npz. Save the whole model into one file: "
            "model.save('model.keras')."
        )
    for name in names:
        if name not in wanted:
            raise ModelFileRefused(f"the zip has a member that no plain Keras model has: {quoted(name)}.")
    for name in sorted(wanted.difference(names)):
        raise ModelFileRefused(f"the zip has no member {name!r}, so it is no .keras file: model.save('model.keras').")


def _check_member(member: zipfile.ZipInfo) -> None:
    name, limit = quoted(member.filename), MAX_BYTES if member.filename == WEIGHTS else json_text.MAX_BYTES
    if member.flag_bits & 0x1:
        raise ModelFileRefused(f"the member {name} is encrypted; only plain .keras files are read.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ModelFileRefused(f"the member {name} is packed in an unusual way; Keras stores or deflates.")
    if member.file_size > limit:
        raise ModelFileRefused(f"the member {name} unpacks to {member.file_size:,} bytes; at most {limit:,} are read.")
    if member.file_size > MAX_EXPANSION * max(member.compress_size, 1):
        raise ModelFileRefused(f"the member {name} unpacks to over {MAX_EXPANSION} times its size: a zip bomb.")
