"""Reads the files that TLS needs, and proves that they work before anything else relies on them. Watches nothing."""

import contextlib
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conveyor_server.core.errors import StartError

_MAX_FILE_BYTES = 2**20
_ATTEMPTS = 3
_MOST_TURNS = 4
"""Of a handshake, each with a word from either side; TLS 1.3 takes two."""
_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Those that HTTP/2 allows. TLS 1.3 has its own, which are all good."""
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for."""
_ED25519 = bytes.fromhex("302a300506032b6570032100")
"""How a public key of that kind begins in a certificate."""

_Description = dict[str, Any]
"""A certificate as Python's `ssl` describes it."""


@dataclass(frozen=True)
class TlsFiles:
    """Where the material is, all of it as PEM."""

    certificate: Path
    """The server's own, then those of the authorities between it and the root that clients know."""
    key: Path
    """Of the first certificate, not encrypted."""
    client_authority: Path | None = None
    """Authorities whose clients are let in; None lets in clients without a certificate."""


@dataclass(frozen=True)
class TlsMaterial:
    """What the files held at one moment, proven to fit together."""

    certificate: bytes
    key: bytes
    client_authority: bytes | None
    grpc: ssl.SSLContext
    """Speaks `h2`. With an authority, clients must show a certificate."""
    http: ssl.SSLContext
    """Speaks HTTP/1.1. With an authority, clients may show a certificate: probes have none."""
    names: str
    """Whom the certificate is for."""
    notice: str
    """What an operator should know of it; mostly empty."""
    expires: float
    """When it can no longer be used, in seconds since 1970. Of several client authorities the last one counts, for they
    overlap while one follows another."""


def read_material(files: TlsFiles) -> TlsMaterial:
    """The material, all of it of one moment.

    Raises:
        StartError: a file is missing or not PEM, the key is of another certificate, a certificate is not valid now.
    """
    for _ in range(_ATTEMPTS):
        contents = _contents(files)
        grpc, http = (_context(files, protocol) for protocol in ("h2", "http/1.1"))
        own, encoded = _prove(grpc, contents[0])
        expires = _check_times(f"certificate '{files.certificate}'", [own])
        if files.client_authority:
            http.verify_mode, grpc.verify_mode = ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED
            expires = min(expires, _check_authority(files.client_authority, grpc))
        if _contents(files) == contents:  # else the contexts, which read the files themselves, may be of another moment
            return TlsMaterial(*contents, grpc, http, _names(own), _notice(encoded), expires)
    raise StartError("The files of the TLS certificate keep changing while they are read.")


def _contents(files: TlsFiles) -> tuple[bytes, bytes, bytes | None]:
    authority = files.client_authority
    return (
        _read("certificate", files.certificate),
        _read("key", files.key),
        _read("client authority", authority) if authority else None,
    )


def _read(what: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise StartError(f"The TLS {what} '{path}' cannot be read: {error.strerror}.") from error
    if len(content) > _MAX_FILE_BYTES:
        raise StartError(f"The TLS {what} '{path}' is larger than {_MAX_FILE_BYTES} bytes.")
    return content


def _context(files: TlsFiles, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    context.set_alpn_protocols([protocol])
    # No session is resumed: connections are few and long, and a client whose authority is gone must not come back.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        context.load_cert_chain(files.certificate, files.key, password=_refuse_password)
        if files.client_authority:
            context.load_verify_locations(cafile=files.client_authority)
    except ssl.SSLError as error:
        raise StartError(_why(error, files)) from error
    except OSError as error:  # gone since it was read
        raise StartError(f"A file of the TLS certificate cannot be read: {error}.") from error
    return context


def _refuse_password() -> str:
    raise StartError("The TLS key is encrypted. Give the server one that is not: openssl pkey -in KEY -out NEW_KEY")


def _why(error: ssl.SSLError, files: TlsFiles) -> str:
    """OpenSSL says what it expected, and not of which file."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"The TLS key '{files.key}' is not that of the certificate '{files.certificate}'."
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=files.certificate)
    except ssl.SSLError:
        return f"The TLS certificate '{files.certificate}' has no certificates in PEM form, or one that is damaged."
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key, _refuse_password)
    except ssl.SSLError:
        return f"The TLS key '{files.key}' has no private key in PEM form that can be used ({error.reason})."
    return f"The TLS client authority '{files.client_authority}' has no certificates in PEM form, or a damaged one."


def _prove(server: ssl.SSLContext, certificate: bytes) -> tuple[_Description, bytes]:
    """Has the context serve a client in memory that trusts this very certificate, whatever the time.

    Returns the certificate as that client sees it, described and in DER.

    Raises:
        StartError: no client could be served.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    client.load_verify_locations(cadata=certificate.decode("ascii", errors="ignore"))  # comments may be in any language
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True))
    try:
        for _ in range(_MOST_TURNS):
            for end in ends:
                with contextlib.suppress(ssl.SSLWantReadError):  # the other one is next
                    end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise StartError(f"The TLS certificate cannot be that of a server: {error.verify_message}.") from error
    except ssl.SSLError as error:
        raise StartError(f"The TLS certificate cannot be used: {error.reason}.") from error
    if not (description := ends[0].getpeercert()):
        raise StartError("The TLS certificate cannot be used: no client could be served with it.")
    return description, ends[0].getpeercert(binary_form=True) or b""


def _check_authority(path: Path, context: ssl.SSLContext) -> float:
    """When the last of the authorities expires."""
    authorities = context.get_ca_certs()
    if not authorities:
        raise StartError(f"The TLS client authority '{path}' has certificates, but none of an authority.")
    return _check_times(f"client authority '{path}'", authorities)


def _check_times(what: str, certificates: list[_Description]) -> float:
    """When the last of them expires, in seconds since 1970.

    Raises:
        StartError: none of them is valid now.
    """
    now = time.time()
    ends = [ssl.cert_time_to_seconds(one["notAfter"]) for one in certificates]
    if all(end <= now for end in ends):
        raise StartError(f"The TLS {what} expired on {certificates[-1]['notAfter']}.")
    if all(ssl.cert_time_to_seconds(one["notBefore"]) > now for one in certificates):
        raise StartError(f"The TLS {what} is not valid before {certificates[0]['notBefore']}. Is the clock right?")
    return float(max(ends))


def _names(certificate: _Description) -> str:
    alternatives = [f"{kind}:{name}" for kind, name in certificate.get("subjectAltName", ())]
    subject = [f"{key}={value}" for part in certificate.get("subject", ()) for key, value in part]
    return ", ".join(alternatives or subject) or "nobody"


def _notice(certificate: bytes) -> str:
    if _ED25519 not in certificate:
        return ""
    return (
        "its key is of the kind Ed25519, which clients on gRPC's C core (Python, C++) refuse. ECDSA (P-256) and RSA "
        "work everywhere."
    )
