"""Reads the files of a repository: whole, once, only from inside it, and only so large. Knows no formats.

Whoever writes to a repository decides what is served from it, and must not decide what else the server can read: the
label file of a model, say, is sent to clients line by line.
"""

import os
import stat
from pathlib import Path

from conveyor_server.core.errors import ModelRejected


class RepositoryFiles:
    """The files below one folder.

    Links are followed, as volumes of Kubernetes and local copies are made of them, but not out of the folder.

    Args:
        boundary: the folder; it may itself be a link, and lead elsewhere tomorrow.
    """

    def __init__(self, boundary: Path) -> None:
        self._boundary = boundary

    def read(self, path: Path, limit: int) -> bytes:
        """The content of a file of at most `limit` bytes.

        Raises:
            ModelRejected: it leads out of the repository, is larger, or is a device or a pipe.
            OSError: it is not there, or cannot be read.
        """
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelRejected(f"{path.name} is a device or a pipe, not a file.")
            if not self._is_inside(path, status):
                raise ModelRejected(
                    f"{path.name} is, or is behind, a link out of the repository. Put the file itself there."
                )
            if status.st_size > limit:
                raise ModelRejected(f"{path.name} has {status.st_size} bytes; the limit is {limit}.")
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ModelRejected(f"{path.name} has grown beyond {limit} bytes while it was read.")
        return content

    def _is_inside(self, path: Path, opened: os.stat_result) -> bool:
        """Whether what was opened is in the folder: the very file, in case a link was swapped meanwhile."""
        real = path.resolve(strict=True)
        return real.is_relative_to(self._boundary.resolve()) and os.path.samestat(real.stat(), opened)


def is_file_name(text: str) -> bool:
    """Whether a text can be the name of a file in a given folder, and nothing else."""
    return text not in ("", ".", "..") and not {"/", "\0"} & set(text)


def _open_at_once(path: str, flags: int) -> int:
    """Opens a pipe, too, without waiting for someone to write to it."""
    return os.open(path, flags | os.O_NONBLOCK)
