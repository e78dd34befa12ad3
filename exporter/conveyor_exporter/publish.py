"""Owns the writing of a model repository: numbered versions, complete or not there at all. Knows no file format."""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from conveyor_exporter.errors import InvalidArgument, PublishFailed

FILE_NAME = "model.onnx"
_MODEL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True)
class Published:
    """One version of a model in a repository.

    Attributes:
        name: name of the model.
        version: number of the version, from 1.
        path: where the file is.
        size: bytes of the file.
        sha256: SHA-256 of the file's bytes, in hexadecimal.
    """

    name: str
    version: int
    path: Path
    size: int
    sha256: str


def publish(
    content: bytes, repository: Path, name: str, beside: Mapping[str, bytes] = MappingProxyType({})
) -> Published:
    """Write `content` as the next version of a model: `<repository>/<name>/<version>/model.onnx`.

    Files `beside` the model, such as `README.md`, appear in the same moment.

    A reader sees the whole version or none of it, also after a crash; a version that exists is never touched; and
    publishers that run at the same time get different versions.

    Raises:
        InvalidArgument: the name cannot be a model's, or the name of a file beside it cannot be a file's.
        PublishFailed: the repository cannot be written.
    """
    for file_name in beside:
        if not _FILE_NAME.fullmatch(file_name) or file_name == FILE_NAME:
            raise InvalidArgument(f"a file beside {FILE_NAME} cannot be called {file_name!r}.")
    model_folder = repository / check_model_name(name)
    try:
        model_folder.mkdir(parents=True, exist_ok=True)
        version = _publish({**beside, FILE_NAME: content}, model_folder)
    except OSError as error:
        raise PublishFailed(f"cannot write to {model_folder}: {error.strerror or error}.") from error
    return _describe(content, model_folder, version)


def latest(repository: Path, name: str) -> Published | None:
    """Return the newest version of a model in the repository, or None when there is none.

    Raises:
        InvalidArgument: the name cannot be a model's.
        PublishFailed: the repository cannot be read.
    """
    model_folder = repository / check_model_name(name)
    if repository.exists() and not repository.is_dir():
        raise PublishFailed(f"the model repository {repository} is not a folder.")
    try:
        versions = [version for version in _versions(model_folder) if _file(model_folder, version).is_file()]
        if not versions:
            return None
        return _describe(_file(model_folder, max(versions)).read_bytes(), model_folder, max(versions))
    except OSError as error:
        raise PublishFailed(f"cannot read {model_folder}: {error.strerror or error}.") from error


def check_model_name(name: str) -> str:
    """Return `name` when it can be a model's.

    Raises:
        InvalidArgument: it cannot.
    """
    if not isinstance(name, str) or not _MODEL_NAME.fullmatch(name):
        raise InvalidArgument(
            f"a model's name is made of letters, digits, '_', '-' and '.', and does not start with '.'; got {name!r}."
        )
    return name


def _publish(files: Mapping[str, bytes], model_folder: Path) -> int:
    temporary = model_folder / f".publishing-{secrets.token_hex(8)}"  # readers skip what starts with a dot
    try:
        temporary.mkdir()
        for file_name, content in files.items():
            with (temporary / file_name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(temporary)
        version = _take_next_version(temporary, model_folder)
        _sync_folder(model_folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # leaves no empty folder behind; one with versions stays
            model_folder.rmdir()
        raise
    return version


def _take_next_version(temporary: Path, model_folder: Path) -> int:
    """Rename the finished folder to the next free number; a rename onto a folder with a file in it fails."""
    while True:
        version = max(_versions(model_folder), default=0) + 1
        try:
            temporary.rename(model_folder / str(version))
        except OSError:
            if not (model_folder / str(version)).exists():
                raise
        else:
            return version


def _versions(model_folder: Path) -> list[int]:
    if not model_folder.is_dir():
        return []
    return [int(entry.name) for entry in model_folder.iterdir() if _VERSION.fullmatch(entry.name)]


def _file(model_folder: Path, version: int) -> Path:
    return model_folder / str(version) / FILE_NAME


def _describe(content: bytes, model_folder: Path, version: int) -> Published:
    digest = hashlib.sha256(content).hexdigest()
    return Published(model_folder.name, version, _file(model_folder, version), len(content), digest)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
