"""Certificates and tokens, as the settings name them."""

import asyncio
from pathlib import Path

from conveyor_server.settings import Settings
from conveyor_server.wire.access import Access
from conveyor_server.wire.certificates import Certificates
from conveyor_server.wire.tls_material import TlsFiles


class Security:
    """What keeps strangers out of one process.

    Args:
        settings: which files.

    Raises:
        StartError: a file cannot be used; the text says why.
    """

    def __init__(self, settings: Settings) -> None:
        self.certificates: Certificates | None = None
        """For TLS; None for none."""
        if settings.tls_certificate:
            authority = Path(settings.tls_client_authority) if settings.tls_client_authority else None
            files = TlsFiles(Path(settings.tls_certificate), Path(settings.tls_key), authority)
            self.certificates = Certificates(files)
        self.access = Access(Path(settings.tokens)) if settings.tokens else None
        """Who may call what; None lets all in."""

    async def watch(self) -> None:
        """Follows the files, for ever; returns where there are none."""
        await asyncio.gather(*(files.watch() for files in (self.certificates, self.access) if files))
