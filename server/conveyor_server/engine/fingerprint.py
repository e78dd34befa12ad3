"""Whether a file is still the one that was seen before. Opens none."""

from pathlib import Path

Fingerprint = tuple[int, ...]
"""Changes whenever a file is written or replaced."""


def fingerprint(path: Path) -> Fingerprint:
    """Identity, size and time of a file; empty when there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
