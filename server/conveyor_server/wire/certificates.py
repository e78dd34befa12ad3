"""The server's TLS certificate while it runs: the newest one for every new connection. Knows no transport.

grpcio takes PEM and asks for it at each connection; everything else takes a context of Python's `ssl`.
"""

import logging
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from conveyor_server.wire.file_watch import WatchedFiles
from conveyor_server.wire.tls_material import TlsFiles, TlsMaterial, read_material

log = logging.getLogger(__name__)

_DAY = 86400.0
_SOON_DAYS = 7.0


class Certificates:
    """What the files hold now, or what they held before they were broken.

    Args:
        files: certificate, key and client authority.

    Raises:
        StartError: they cannot be used; the text says which, and why.
    """

    def __init__(self, files: TlsFiles) -> None:
        paths = [files.certificate, files.key, *filter(None, [files.client_authority])]
        self.files: WatchedFiles[TlsMaterial] = WatchedFiles("TLS certificate", paths, lambda: read_material(files))
        self.wants_clients = files.client_authority is not None
        """Whether clients must have a certificate, too."""
        self.grpc_context: ssl.SSLContext = _NewestContext(lambda: self.files.value.grpc)
        """For a server of `h2`. It may keep this one: each new connection is made with the newest material."""
        self.http_context: ssl.SSLContext = _NewestContext(lambda: self.files.value.http)
        """For a server of HTTP/1.1, likewise. Here a client's certificate is checked, and not demanded."""
        self._describe()

    @property
    def material(self) -> TlsMaterial:
        """The newest that can be used."""
        return self.files.value

    async def watch(self) -> None:
        """Follows the files."""
        await self.files.watch(self._describe)

    def _describe(self) -> None:
        """Says in the log what clients get to see, and what an operator should do about it."""
        material = self.material
        until = datetime.fromtimestamp(material.expires, UTC)
        log.info("TLS certificate: for %s, until %s.", material.names, until.isoformat(timespec="minutes"))
        if (days := (material.expires - time.time()) / _DAY) < _SOON_DAYS:
            log.warning("TLS certificate: it, or the client authority, expires in %.1f days.", days)
        if material.notice:
            log.warning("TLS certificate: %s", material.notice)


class _NewestContext(ssl.SSLContext):
    """A context that has another one make each connection. A server keeps the context that it was started with."""

    _newest: Callable[[], ssl.SSLContext]

    def __new__(cls, newest: Callable[[], ssl.SSLContext]) -> "_NewestContext":
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made._newest = newest
        return made

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """What event loops call for each connection."""
        return self._newest().wrap_bio(*args, **kwargs)
