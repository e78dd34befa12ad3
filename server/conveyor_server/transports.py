"""Chooses what carries gRPC, as the settings say and this machine can."""

import importlib.metadata
import logging
from collections.abc import Mapping
from math import inf
from typing import Protocol

from conveyor_server.core.errors import RequestError, StartError
from conveyor_server.settings import Settings, Transport
from conveyor_server.wire.access import Access
from conveyor_server.wire.certificates import Certificates
from conveyor_server.wire.connection_limits import ConnectionLimits
from conveyor_server.wire.service import InferenceService

log = logging.getLogger(__name__)

TESTED = "0.3.0"
"""The version of the HTTP/2 library with which the conformance tests pass. It is young, and may change."""


class GrpcServer(Protocol):
    """What the life of a server needs of a transport."""

    port: int

    @property
    def in_progress(self) -> int:
        """Requests that are not answered yet."""

    @property
    def refused(self) -> Mapping[type[RequestError], int]:
        """Inference requests that were turned away by their headers, by the error that stands for the reason."""

    @property
    def connections(self) -> int | None:
        """Open ones; None where that is not known."""

    @property
    def endings(self) -> Mapping[str, int]:
        """Connections that were closed from this side, by why."""

    async def start(self) -> None:
        """Begins to accept connections."""

    def leave(self) -> None:
        """Where it can: accepts no more connections, and asks clients to take their calls elsewhere."""

    async def stop(self, grace: float) -> None:
        """Waits until all is answered and no more comes, at most `grace` seconds, then closes everything."""


def open_transport(
    service: InferenceService, settings: Settings, certificates: Certificates | None, access: Access | None
) -> GrpcServer:
    """The transport, listening already.

    Raises:
        StartError: the address is taken, or what was asked for is not installed.
    """
    limits = ConnectionLimits(
        max_message_bytes=settings.max_message_bytes,
        max_connections=settings.max_connections,
        max_streams=settings.max_streams,
        age_seconds=settings.max_connection_age_seconds or inf,
        age_grace_seconds=settings.max_connection_grace_seconds or inf,
        idle_seconds=settings.max_connection_idle_seconds or inf,
        keepalive_seconds=settings.keepalive_seconds or inf,
    )
    if settings.transport is not Transport.GRPCIO:
        reason = _why_not_h2()
        if not reason:
            from conveyor_server.wire.h2.limits import Limits
            from conveyor_server.wire.h2.transport import H2Transport

            return H2Transport(
                service,
                settings.host,
                settings.grpc_port,
                Limits(**vars(limits), max_waiting_calls=settings.max_waiting_calls),
                unix_socket=settings.unix_socket,
                certificates=certificates,
                access=access,
            )
        if settings.transport is Transport.H2:
            raise StartError(f"--transport h2: {reason}.")
        log.warning("gRPC is carried by grpcio, which is slower: %s.", reason)
    from conveyor_server.wire.grpc_transport import GrpcTransport

    return GrpcTransport(
        service,
        settings.host,
        settings.grpc_port,
        limits,
        settings.max_waiting_calls,
        unix_socket=settings.unix_socket,
        certificates=certificates,
        access=access,
    )


def _why_not_h2() -> str:
    """Why the fast transport cannot be used; empty when it can."""
    try:
        version = importlib.metadata.version("ngh2")
    except importlib.metadata.PackageNotFoundError:
        return f"the package ngh2 is not installed (pip install ngh2=={TESTED})"
    return "" if version == TESTED else f"the package ngh2 is there in version {version}, tested is {TESTED}"
