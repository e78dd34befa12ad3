"""Tokens and the file that holds their hashes: who they are, what they may. Knows no calls.

A line of the file is a name, scopes with commas between them, and a hash: `frontend infer,read sha256:9f86d0…`.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from conveyor_server.core.errors import StartError

_MAX_FILE_BYTES = 2**20
_MAX_TOKENS = 1000
"""Each unknown token is compared with all of them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_PREFIX = "conveyor_"
"""By which people and scanners for secrets tell what it is."""
_RANDOM_BYTES = 32


class Scope(StrEnum):
    """What a token may be used for."""

    INFER = "infer"
    """Ask for predictions."""
    READ = "read"
    """Ask what there is and how it does: metadata, configuration, statistics, index, reflection, metrics."""
    ADMIN = "admin"
    """Load and unload models."""


@dataclass(frozen=True)
class Caller:
    """Who calls: one line of the file."""

    name: str
    scopes: frozenset[Scope]


class Tokens:
    """The tokens of one file.

    Only hashes are known. The tokens are 256 random bits, so a plain SHA-256 keeps them as well as a slow hash would:
    there is no dictionary of them to try, and a slow hash for each request would only be a way to keep the server busy.

    Args:
        entries: SHA-256 of each token, and who it stands for.
    """

    def __init__(self, entries: Sequence[tuple[bytes, Caller]]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, token: str) -> Caller | None:
        """Whose token it is. Takes the same time for every wrong one, and compares in constant time."""
        digest = _hash(token)
        found = None
        for known, caller in self._entries:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def read_tokens(path: Path) -> Tokens:
    """The tokens of a file, which may be none.

    Raises:
        StartError: it cannot be read, or a line is not as it should be; the text has the line's number, not the line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"The file of tokens cannot be read: {error}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise StartError(f"The file of tokens '{path}' is larger than {_MAX_FILE_BYTES} bytes.")
    entries: dict[bytes, Caller] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if words:
            try:
                digest, caller = _entry(words)
            except ValueError as error:
                raise StartError(f"The file of tokens '{path}', line {number}: {error}") from error
            if digest in entries:
                raise StartError(f"The file of tokens '{path}', line {number}: the same token as in a line before.")
            entries[digest] = caller
    if len(entries) > _MAX_TOKENS:
        raise StartError(f"The file of tokens '{path}' has {len(entries)} tokens; {_MAX_TOKENS} are the limit.")
    return Tokens(list(entries.items()))


def make_token(name: str, scopes: Iterable[Scope]) -> tuple[str, str]:
    """A new token, and the line for the file that makes it known.

    Raises:
        StartError: the name cannot stand in the file, or there is no scope.
    """
    token = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    words = [name, ",".join(sorted(set(scopes))), f"sha256:{_hash(token).hex()}"]
    try:
        _entry(words)
    except ValueError as error:
        raise StartError(str(error)) from error
    return token, " ".join(words)


def _entry(words: Sequence[str]) -> tuple[bytes, Caller]:
    if len(words) != 3:
        raise ValueError(f"expected a name, scopes and a hash, got {len(words)} words.")
    name, scopes, digest = words
    if not _NAME.fullmatch(name):
        raise ValueError("a name has up to 64 letters, digits, and . _ @ - after the first of them.")
    unknown = set(scopes.split(",")) - set(Scope)
    if unknown:
        raise ValueError(f"expected scopes out of {', '.join(Scope)}, with commas and no spaces between them.")
    found = _HASH.fullmatch(digest)
    if not found:
        raise ValueError("expected a hash of the form sha256:<64 hex digits>. Make one with: conveyor-server token")
    return bytes.fromhex(found[1]), Caller(name, frozenset(map(Scope, scopes.split(","))))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
