"""The local copy of a remote repository: what it holds, and how files get into it without a reader ever seeing half.

Knows folders and renames, not where the files come from. A version folder is a link to a finished folder, so that one
rename swaps all its files at once; files beside the versions (`config.pbtxt`, labels) are renamed one by one.
"""

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_MANIFEST = "manifest.json"
_LONGEST_NAME = 255


@dataclass(frozen=True)
class RemoteFile:
    """One file of the remote repository, as its listing says."""

    path: str
    """Relative to the repository, with slashes: `digits/3/model.onnx`."""
    size: int
    """Bytes."""
    identity: str
    """Changes whenever the content does: the etag, or the time of the last change where there is none."""

    @property
    def unit(self) -> str:
        """What is swapped as a whole: the version folder (`digits/3`), or the file alone."""
        parts = self.path.split("/")
        return "/".join(parts[:2]) if len(parts) > 2 and parts[1].isdigit() else self.path


def is_safe(path: str) -> bool:
    """Whether a relative path of somebody else's listing stays below the folder that it is put into, and is wanted.

    Hidden names (a leading dot) are not: publishers use them for what is not finished.
    """
    parts = path.split("/")
    return len(parts) >= 2 and all(
        part and not part.startswith(".") and len(part.encode()) <= _LONGEST_NAME and part.isprintable()
        and "\\" not in part
        for part in parts
    )  # fmt: skip


def units(files: Iterable[RemoteFile]) -> dict[str, list[RemoteFile]]:
    """The files by unit, in order of path."""
    grouped: dict[str, list[RemoteFile]] = defaultdict(list)
    for file in sorted(files, key=lambda file: file.path):
        grouped[file.unit].append(file)
    return dict(grouped)


class LocalMirror:
    """A cache folder with the finished copy in `models`.

    Args:
        root: the folder; it is made, and nothing else may live in it.

    Raises:
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "models"
        """The copy, laid out as a model repository."""
        self._versions = root / "versions"
        self._incoming = root / "incoming"
        for folder in (root, self.models, self._versions, self._incoming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.is_symlink():
                raise OSError(f"'{folder}' is a link; remove it, or choose another folder")
        self.files: dict[str, RemoteFile] = {}
        """What the copy holds, by path."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes that share the folder out, and takes in what they have done meanwhile."""
        with open(self.root / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            shutil.rmtree(self._incoming)
            self._incoming.mkdir(mode=0o700)
            self.files = self._read_manifest()
            yield

    def holds(self, unit: str, files: list[RemoteFile]) -> bool:
        """Whether the copy of this unit is exactly these files."""
        present = [file for file in self.files.values() if file.unit == unit]
        return {file.path: file for file in present} == {file.path: file for file in files} and all(
            self._has(file) for file in files
        )

    def place(self, unit: str, files: list[RemoteFile], fetch: Callable[[RemoteFile, Path], None]) -> None:
        """Makes the copy of a unit be exactly these files, at one stroke; on any error nothing has changed.

        Args:
            unit: of all the files.
            files: what the unit consists of.
            fetch: puts a file's content at a path, or raises; called for those that the copy does not have.
        """
        staging = self._incoming / uuid.uuid4().hex
        for file in files:
            target = staging / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.files.get(file.path) == file and self._has(file):
                os.link(self.models / file.path, target)
            else:
                fetch(file, target)
        self._swap_in(staging / unit, unit)
        kept = {path: file for path, file in self.files.items() if file.unit != unit}
        self._write_manifest(kept | {file.path: file for file in files})

    def keep_only(self, paths: set[str]) -> list[str]:
        """Removes every unit without a file in `paths`; returns what was removed, and frees what no one refers to."""
        wanted = {RemoteFile(path, 0, "").unit for path in paths}
        gone = sorted({file.unit for file in self.files.values()} - wanted)
        for unit in gone:
            _remove(self.models / unit)
        if gone:
            self._write_manifest({path: file for path, file in self.files.items() if file.unit in wanted})
        for folder, _, _ in os.walk(self.models, topdown=False):
            if folder != str(self.models):
                with contextlib.suppress(OSError):  # not empty
                    os.rmdir(folder)
        used = {os.path.basename(os.readlink(path)) for path in self.models.glob("*/*") if path.is_symlink()}
        for version in self._versions.iterdir():
            if version.name not in used:
                _remove(version)
        return gone

    def _swap_in(self, source: Path, unit: str) -> None:
        place = self.models / unit
        self._make_parents(place)
        if source.is_dir():
            stored = self._versions / uuid.uuid4().hex
            source.rename(stored)
            source = self._incoming / uuid.uuid4().hex
            source.symlink_to(Path("..") / ".." / self._versions.name / stored.name)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        os.replace(source, place)

    def _make_parents(self, place: Path) -> None:
        """Makes the folders above, and replaces whatever is there and is no folder of ours."""
        for folder in reversed(place.relative_to(self.models).parents[:-1]):
            path = self.models / folder
            if path.is_symlink() or path.is_file():
                path.unlink()
            path.mkdir(exist_ok=True)

    def _has(self, file: RemoteFile) -> bool:
        path = self.models / file.path
        return path.is_file() and path.stat().st_size == file.size

    def _read_manifest(self) -> dict[str, RemoteFile]:
        try:
            entries = json.loads((self.root / _MANIFEST).read_text())
            return {path: RemoteFile(path, int(size), str(identity)) for path, (size, identity) in entries.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # none yet, or damaged: everything is compared and fetched anew

    def _write_manifest(self, files: dict[str, RemoteFile]) -> None:
        self.files = files
        draft = self._incoming / _MANIFEST
        draft.write_text(json.dumps({path: (file.size, file.identity) for path, file in sorted(files.items())}))
        os.replace(draft, self.root / _MANIFEST)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
