"""Which transport carries gRPC, as the settings say and this machine can. Loads none."""

import importlib.metadata
import logging

from conveyor_server.core.errors import StartError
from conveyor_server.settings import Transport

log = logging.getLogger(__name__)

TESTED = "0.3.0"
"""The version of the HTTP/2 library with which the conformance tests pass. It is young, and may change."""


def choose_transport(wanted: Transport) -> Transport:
    """The transport to use, which is not `auto`.

    Raises:
        StartError: what was asked for is not installed.
    """
    if wanted is Transport.GRPCIO or not (reason := _why_not_h2()):
        return Transport.GRPCIO if wanted is Transport.GRPCIO else Transport.H2
    if wanted is Transport.H2:
        raise StartError(f"--transport h2: {reason}.")
    log.warning("gRPC is carried by grpcio, which is slower: %s.", reason)
    return Transport.GRPCIO


def _why_not_h2() -> str:
    """Why the fast transport cannot be used; empty when it can."""
    try:
        version = importlib.metadata.version("ngh2")
    except importlib.metadata.PackageNotFoundError:
        return f"the package ngh2 is not installed (pip install ngh2=={TESTED})"
    return "" if version == TESTED else f"the package ngh2 is there in version {version}, tested is {TESTED}"
