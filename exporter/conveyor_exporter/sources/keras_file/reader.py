"""Owns the order of reading a trained Keras model: file, description, layers, weights. Runs nothing from the file."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.models import Sequential
from conveyor_exporter.sources.keras_file import archive, hdf5_format, json_text
from conveyor_exporter.sources.keras_file.assembly import assemble
from conveyor_exporter.sources.keras_file.chain import read_chain
from conveyor_exporter.sources.keras_file.hdf5 import Hdf5
from conveyor_exporter.sources.keras_file.json_text import Object, as_object, quoted
from conveyor_exporter.sources.keras_file.loss import StoredLoss, read_loss
from conveyor_exporter.sources.keras_file.versions import KerasVersion
from conveyor_exporter.sources.keras_file.weights import LEGACY_ROOT, ArchiveWeights, LegacyWeights, StoredWeights

MAX_BYTES = archive.MAX_BYTES
ZIP_SIGNATURE = b"PK\x03\x04"


@dataclass(frozen=True)
class KerasModel:
    """A trained Keras model that was read from a file.

    Attributes:
        network: our form of it, with its weights; gives what Keras' `predict` gives.
        format: `keras` or, for a legacy whole-model file, `keras-h5`.
        keras_version: the version of Keras that wrote the file, when it says so.
        sha256: SHA-256 of the file's bytes, in hexadecimal.
        loss: what it was trained with, None when the file does not say or says something else.
        left_out: names of the layers that do nothing outside training.
    """

    network: Sequential
    format: str
    keras_version: str | None
    sha256: str
    loss: StoredLoss | None
    left_out: tuple[str, ...]


def load_keras(path: str | os.PathLike[str]) -> Sequential:
    """Read a trained Keras model, `.keras` or legacy `.h5`, without Keras and without running anything from the file.

    Takes Sequential models, and Functional ones that are a chain of layers.

    Args:
        path: the file.

    Returns:
        The model with its weights; `predict` gives what Keras' `predict` gives.

    Raises:
        ModelFileRefused: the file is damaged, hostile, or holds a layer or a setting that is not understood; the
            message names it.
    """
    return read_keras(path).network


def read_keras(path: str | os.PathLike[str]) -> KerasModel:
    """Read a trained Keras model with what the file tells about it; see `load_keras`."""
    content = _read(Path(path))
    if content.startswith(ZIP_SIGNATURE):
        format, (model, training, version, weights) = "keras", _open_archive(content)
    elif content.startswith(hdf5_format.SIGNATURE):
        format, (model, training, version, weights) = "keras-h5", _open_legacy(content)
    else:
        raise ModelFileRefused(
            f"{path} is neither a .keras file nor HDF5, or is damaged. Save the model with model.save('model.keras')."
        )
    network, left_out = assemble(read_chain(model), weights, KerasVersion(version))
    sha256 = hashlib.sha256(content).hexdigest()
    return KerasModel(network, format, version, sha256, read_loss(training), left_out)


Parts = tuple[Object, Object | None, str | None, StoredWeights]
"""A file's description of the model, settings of compile, version of Keras, and weights."""


def _open_archive(content: bytes) -> Parts:
    members = archive.read_members(content)
    model = json_text.parse_object(members.config, archive.CONFIG)
    version = json_text.parse_object(members.metadata, archive.METADATA).get("keras_version")
    weights = ArchiveWeights(Hdf5(members.weights, archive.WEIGHTS))
    return model, model.get("compile_config"), version if isinstance(version, str) else None, weights


def _open_legacy(content: bytes) -> Parts:
    file = Hdf5(content, "the .h5 file")
    description = file.text((), "model_config")
    if description is None:
        if file.members((LEGACY_ROOT,)) is None:
            raise file.refusal(
                "it holds weights only, not the layers that they belong to. Save the whole model with "
                "model.save('model.keras')"
            )
        raise file.refusal("it has no description of the model, `model_config`")
    training = file.text((), "training_config")
    settings = None if training is None else as_object(json_text.parse_object(training, "training_config"), "")
    model = json_text.parse_object(description, "model_config")
    return model, settings, file.text((), "keras_version"), LegacyWeights(file)


def _read(path: Path) -> bytes:
    """Return the bytes of a file, when it is one and of a size that a small network has.

    Raises:
        ModelFileRefused: it cannot be read, is a folder or a device, or too large.
    """
    name = quoted(str(path))
    if path.is_dir():
        raise ModelFileRefused(
            f"{name} is a folder (a SavedModel?). Load it with Keras, and save it with model.save('model.keras')."
        )
    if path.name.endswith((".weights.json", ".npz")):
        raise ModelFileRefused(f"{name} holds weights only. Save the whole model with model.save('model.keras').")
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise ModelFileRefused(f"{name} is not a file.")
            if state.st_size > MAX_BYTES:
                raise ModelFileRefused(f"{name} is larger than {MAX_BYTES:,} bytes, which no small network needs.")
            return file.read(state.st_size)
    except OSError as error:
        raise ModelFileRefused(f"cannot read {name}: {error.strerror}.") from error
