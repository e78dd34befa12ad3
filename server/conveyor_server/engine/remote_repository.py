"""Repositories behind a URL (`s3://bucket/prefix`, anything that fsspec knows), kept as a copy in a local folder.

Lists, compares and downloads; where files are put is the mirror's business, and what they mean is the repository's.
Credentials come from the environment, as the storage's own library finds them; never from the URL or a setting.
"""

import asyncio
import hashlib
import logging
import re
import shutil
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from conveyor_server.core.errors import RepositoryUnreachable, StartError
from conveyor_server.engine.local_mirror import LocalMirror, RemoteFile, is_safe, units

log = logging.getLogger(__name__)

MAX_FILES = 10_000
MAX_BYTES = 64 * 2**30
"""Limits of one repository: a wrong prefix must not fill the disk."""
_PROGRESS_SECONDS = 10.0
_IDENTITIES = ("ETag", "etag", "md5", "checksum", "generation", "LastModified", "last_modified", "mtime", "created")
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}}
}
_REASONS = {
    "NoCredentialsError": "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the "
    "machine a role",
    "PermissionError": "access was refused; check the credentials in the environment and their rights to list and read",
    "FileNotFoundError": "there is no such bucket or folder",
    "TimeoutError": "it did not answer in time",
    "EndpointConnectionError": "it cannot be reached; check the network, and AWS_ENDPOINT_URL where it is set",
    "ConnectionError": "it cannot be reached",
}


def is_remote(repository: str) -> bool:
    """Whether this is a URL, not a local folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", repository) is not None


class RemoteRepository:
    """One remote repository and its local copy.

    Args:
        url: where the models are, each as `<url>/<model>/<version>/model.onnx`.
        cache: folder for copies; each URL has a folder of its own in it.
        max_files: more than that is refused.
        max_bytes: more than that is refused.

    Raises:
        StartError: the URL cannot be used, or a library for it is missing, or the cache folder cannot be written to.
    """

    def __init__(self, url: str, cache: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        if "@" in urlsplit(url).netloc:
            raise StartError("The repository's URL has credentials in it. Put them into the environment instead.")
        self._url = url.rstrip("/")
        self._max_files, self._max_bytes = max_files, max_bytes
        self._storage, self._base = _open_storage(self._url)
        try:
            self._mirror = LocalMirror(cache / hashlib.sha256(self._url.encode()).hexdigest()[:16])
        except OSError as error:
            raise StartError(f"The repository cache cannot be used: {error}. Set --repository-cache.") from error
        self.folder = self._mirror.models
        """The local copy, laid out as a model repository."""
        self.boundary = self._mirror.root
        """The folder that the copy's links stay in."""
        self._seen: dict[str, RemoteFile] | None = None
        self._warned: set[str] = set()

    async def sync(self) -> bool:
        """Makes the local copy equal to the remote tree; returns whether it has changed since the last call.

        Each version appears, changes and goes at one stroke. What was downloaded before an error stays.

        Raises:
            RepositoryUnreachable: it cannot be listed, or not everything could be downloaded; nothing was removed.
        """
        return await asyncio.to_thread(self._sync)

    async def start(self) -> None:
        """The first sync. An unreachable storage does not keep a server from starting with the copy that it has.

        Raises:
            RepositoryUnreachable: as `sync`, and there is no copy.
        """
        try:
            await self.sync()
        except RepositoryUnreachable as error:
            if not any(self.folder.iterdir()):
                raise
            log.error("%s Starting with the copy of an earlier run in %s.", error, self.folder)

    def _sync(self) -> bool:
        listing = self._list()
        with self._mirror.locked():
            wanted = units(listing)
            changed = {unit: files for unit, files in wanted.items() if not self._mirror.holds(unit, files)}
            failures = self._download(changed)
            if failures:
                more = f" So did {len(failures) - 1} more." if len(failures) > 1 else ""
                raise RepositoryUnreachable(f"Downloading from '{self._url}' failed: {failures[0]}.{more}")
            gone = self._mirror.keep_only({file.path for file in listing})
            if changed or gone:
                log.info("Repository %s: %d fetched, %d removed.", self._url, len(changed), len(gone))
            before, self._seen = self._seen, dict(self._mirror.files)
            return before != self._seen

    def _list(self) -> list[RemoteFile]:
        """Every usable file.

        Raises:
            RepositoryUnreachable: no listing, an empty one (more likely a mistake than a wish), or one over the limits.
        """
        try:
            found: Mapping[str, Mapping[str, Any]] = self._storage.find(self._base, detail=True)
        except Exception as error:  # each storage has a family of errors of its own
            raise RepositoryUnreachable(f"The repository '{self._url}' cannot be listed: {_reason(error)}.") from error
        files = []
        for name, info in found.items():
            path = name.removeprefix(f"{self._base}/")
            if info.get("type") != "file" or path.endswith("/"):
                continue
            if is_safe(path) and not info.get("islink"):
                files.append(RemoteFile(path, int(info["size"]), _identity(info)))
            else:
                self._warn_once(path)
        taken = {file.path.rsplit("/", depth)[0] for file in files for depth in range(1, file.path.count("/") + 1)}
        files = [file for file in files if file.path not in taken or self._warn_once(file.path)]
        if not files:
            raise RepositoryUnreachable(f"The repository '{self._url}' is empty: no <model>/<version>/model.onnx.")
        total = sum(file.size for file in files)
        if len(files) > self._max_files or total > self._max_bytes:
            raise RepositoryUnreachable(
                f"The repository '{self._url}' has {len(files)} files of {total} bytes; {self._max_files} files and "
                f"{self._max_bytes} bytes are the limit. Is it the right prefix?"
            )
        return files

    def _download(self, changed: Mapping[str, list[RemoteFile]]) -> list[str]:
        """Fetches and places every unit; returns what went wrong with which."""
        needed = sum(file.size for files in changed.values() for file in files)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            return [f"{needed} bytes are needed in {self.folder} and {free} are free"]
        failures = []
        for number, (unit, files) in enumerate(changed.items(), 1):
            size = sum(file.size for file in files)
            log.info("Fetching %s (%d of %d, %.1f MB).", unit, number, len(changed), size / 1e6)
            try:
                self._mirror.place(unit, files, self._fetch)
            except RepositoryUnreachable as error:
                failures.append(f"{unit}: {error}")
            except Exception as error:  # each storage has a family of errors of its own
                failures.append(f"{unit}: {_reason(error)}")
        return failures

    def _fetch(self, file: RemoteFile, target: Path) -> None:
        remote = f"{self._base}/{file.path}"
        self._storage.get_file(remote, str(target), callback=_progress(file))
        size = target.stat().st_size
        if size != file.size:
            raise RepositoryUnreachable(f"{size} of {file.size} bytes came")
        if _identity(self._storage.info(remote)) != file.identity:
            raise RepositoryUnreachable("it was changed while it was downloaded")

    def _warn_once(self, path: str) -> bool:
        if path not in self._warned and len(self._warned) < self._max_files:
            self._warned.add(path)
            log.warning("Repository %s: %r is no file of a model and is left out.", self._url, path[:200])
        return False


def _open_storage(url: str) -> tuple[Any, str]:
    """The storage of a URL and the path in it."""
    scheme = url.split("://")[0].lower()
    missing = f"The repository '{url}' needs a library that is not installed"
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise StartError(f"{missing}. Install 'conveyor-server[s3]'.") from error
    try:
        storage, base = fsspec.core.url_to_fs(
            url, use_listings_cache=False, skip_instance_cache=True, **_OPTIONS.get(scheme, {})
        )
    except ImportError as error:
        advice = "Install 'conveyor-server[s3]'." if scheme in ("s3", "s3a") else f"{error}."
        raise StartError(f"{missing}. {advice}") from error
    except ValueError as error:
        raise StartError(f"The repository '{url}' cannot be used: {error}.") from error
    return storage, str(base).rstrip("/")


def _identity(info: Mapping[str, Any]) -> str:
    key = next((key for key in _IDENTITIES if info.get(key) is not None), "")
    value = info.get(key)
    if isinstance(value, datetime):  # some storages list a number and describe with a date
        value = value.timestamp()
    return f"{key}={value:.6f}" if isinstance(value, float) else f"{key}={value}"


def _reason(error: Exception) -> str:
    """What an operator can do about an error of a storage, which only its type tells; else its own words."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    advice = next((_REASONS[kind] for kind in kinds if kind in _REASONS), "")
    text = " ".join(str(error).split())[:300] or kinds[0]
    return f"{advice} ({text})" if advice else text


def _progress(file: RemoteFile) -> Any:
    """A callback of fsspec that reports on long downloads, and ends those that bring more than was announced."""
    from fsspec.callbacks import Callback

    class Progress(Callback):  # type: ignore[misc]  # fsspec ships no types
        said = time.monotonic()

        def call(self, hook_name: str | None = None, **kwargs: object) -> None:
            if self.value > file.size:
                raise RepositoryUnreachable(f"more than the {file.size} bytes of its listing came")
            if time.monotonic() - self.said > _PROGRESS_SECONDS:
                self.said = time.monotonic()
                log.info("%s: %.0f of %.0f MB.", file.path, self.value / 1e6, file.size / 1e6)

    return Progress()
