"""Opens what carries gRPC, as the settings and the process' place among others say."""

import math
import socket
from collections.abc import Callable, Mapping
from math import inf
from typing import Protocol

from conveyor_server.core.errors import RequestError
from conveyor_server.engine.memory_budget import memory_budget
from conveyor_server.place import Place
from conveyor_server.security import Security
from conveyor_server.settings import Settings, Transport
from conveyor_server.transport_choice import choose_transport
from conveyor_server.wire.connection_limits import ConnectionLimits
from conveyor_server.wire.service import InferenceService

HELD_SHARE = 4
"""Of the memory that there is, a fourth may be what clients make all workers hold together."""
LEAST_HELD, MOST_HELD = 64 * 2**20, 512 * 2**20
"""Bytes that clients may make one process hold, however little or much memory there is."""


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

    def adopt(self, accepted: socket.socket, ended: Callable[[], None]) -> None:
        """Serves a connection that another process has accepted; calls `ended` when it is no more. Only `h2` can."""

    def send_away(self, count: int) -> None:
        """Where it can: has so many connections end as soon as their calls have, so that clients open others."""

    def leave(self) -> None:
        """Where it can: accepts no more connections, and asks clients to take their calls elsewhere."""

    async def stop(self, grace: float) -> None:
        """Waits until all is answered and no more comes, at most `grace` seconds, then closes everything."""


def open_transport(
    service: InferenceService, settings: Settings, security: Security, place: Place | None = None
) -> GrpcServer:
    """The transport that the settings want.

    It listens already when this process is the only one. Of several, `h2` listens nowhere, and serves what another
    process accepts; grpcio shares the port, which is not 0 then.

    Raises:
        StartError: the address is taken, or what was asked for is not installed.
    """
    limits = ConnectionLimits(
        max_message_bytes=settings.max_message_bytes,
        max_connections=math.ceil(settings.max_connections / (place.count if place else 1)),
        max_streams=settings.max_streams,
        age_seconds=settings.max_connection_age_seconds or inf,
        age_grace_seconds=settings.max_connection_grace_seconds or inf,
        idle_seconds=settings.max_connection_idle_seconds or inf,
        keepalive_seconds=settings.keepalive_seconds or inf,
    )
    if choose_transport(settings.transport) is Transport.H2:
        from conveyor_server.wire.h2.limits import Limits
        from conveyor_server.wire.h2.transport import H2Transport

        return H2Transport(
            service,
            None if place else settings.host,
            settings.grpc_port,
            Limits(
                **vars(limits),
                max_waiting_calls=settings.max_waiting_calls,
                held_bytes=held_bytes(memory_budget(), place.count if place else 1),
            ),
            unix_socket="" if place else settings.unix_socket,
            certificates=security.certificates,
            access=security.access,
        )
    from conveyor_server.wire.grpc_transport import GrpcTransport

    return GrpcTransport(
        service,
        settings.host,
        settings.grpc_port,
        limits,
        settings.max_waiting_calls,
        unix_socket=settings.unix_socket,
        certificates=security.certificates,
        access=security.access,
        shares_port=place is not None,
    )


def held_bytes(memory: int, workers: int) -> int:
    """What clients may make one of so many processes hold of requests and answers, in bytes."""
    return max(LEAST_HELD, min(memory // HELD_SHARE // workers, MOST_HELD))
