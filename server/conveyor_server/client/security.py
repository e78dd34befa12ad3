"""What a client shows and demands: certificates and token. Reads files; knows nothing of how they are sent."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conveyor_server.client.target import Target

Pem = bytes | str | Path
"""A file in PEM form by its path, or its content as bytes."""
Token = str | Callable[[], str]
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Certificates:
    """The content of the PEM files of a TLS connection; None for what is not given."""

    root: bytes | None = None
    chain: bytes | None = None
    key: bytes | None = None


def read_certificates(
    tls: bool | None, root_certificates: Pem | None, certificate: Pem | None, key: Pem | None
) -> Certificates | None:
    """What TLS needs; None for a connection without it. Any file means TLS, where `tls` does not say.

    Raises:
        ValueError: contradictory, not readable, or not PEM.
    """
    files = {"root_certificates": root_certificates, "certificate": certificate, "key": key}
    given = [name for name, file in files.items() if file is not None]
    if tls is False and given:
        raise ValueError(f"{', '.join(given)} and tls=False contradict each other.")
    if (certificate is None) != (key is None):
        raise ValueError("`certificate` and `key` belong together; give both or neither.")
    if not tls and not given:
        return None
    root, chain, secret = (None if file is None else _read(name, file) for name, file in files.items())
    return Certificates(root, chain, secret)


def authorization(token: Token | None, target: Target, *, encrypted: bool, insecure: bool) -> Callable[[], Headers]:
    """The headers that carry the token, made anew for each call, so that a token may change.

    Raises:
        ValueError: the network would see the token, or it cannot stand in a header. The text never has the token.
    """
    if token is None:
        return tuple
    if not (encrypted or target.local or insecure):
        raise ValueError(
            f"Without TLS the network between here and '{target.text}' would see the token. Use TLS (tls or "
            "root_certificates), or say that the network is trusted (insecure_token)."
        )
    if callable(token):
        ask = token
        return lambda: _bearer(ask())
    headers = _bearer(token)
    return lambda: headers


def _bearer(token: str) -> Headers:
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("The token is empty, or has characters that cannot stand in a header.")
    return (("authorization", f"Bearer {token}"),)


def _read(name: str, file: Pem) -> bytes:
    try:
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"`{name}` '{file!s}' cannot be read: {error.strerror}.") from error
    if b"-----BEGIN " not in content:
        raise ValueError(f"`{name}` is not in PEM form: expected '-----BEGIN …'.")
    return content
