"""gRPC on an HTTP/2 library, in the event loop's thread: the listening sockets and all connections."""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Callable, Mapping

from conveyor_server.core.errors import RequestError
from conveyor_server.wire.access import Access
from conveyor_server.wire.certificates import Certificates
from conveyor_server.wire.h2.admission import Admission
from conveyor_server.wire.h2.adoption import AdoptedConnection
from conveyor_server.wire.h2.connection import Connection, Hub
from conveyor_server.wire.h2.limits import Ending, Ledger, Limits
from conveyor_server.wire.h2.session import Shared
from conveyor_server.wire.listening import BACKLOG, listen_at_path, listen_on_network
from conveyor_server.wire.rpc import Service
from conveyor_server.wire.traffic import Traffic

log = logging.getLogger(__name__)

_LOOKED_AT = 64
"""Connections, the oldest ones, of which one may have to make room."""
_LEAVING = 2
"""So many connections, or a tenth of the limit, there may be above it while they are leaving."""
_ACCEPTED_AT_ONCE = 8
"""Connections, before those that are there have their turn."""
_RELIEVED_TO = 7 / 8
"""Of the limit of memory, so that not every byte above it is one connection's end."""


class H2Transport:
    """The gRPC server of one service.

    Args:
        service: the handlers.
        host: address to listen on; None to listen nowhere, and serve what another process accepts.
        port: port to listen on; 0 takes a free one.
        limits: what peers may make it hold and wait for.
        unix_socket: path to listen at as well, without TLS; empty for none.
        certificates: for TLS; None for none.
        access: who may call what; None lets all in.

    Raises:
        StartError: the address is taken or not ours.
    """

    def __init__(
        self,
        service: Service,
        host: str | None,
        port: int,
        limits: Limits,
        *,
        unix_socket: str = "",
        certificates: Certificates | None = None,
        access: Access | None = None,
    ) -> None:
        self._limits = limits
        self._traffic = Traffic()
        routes = {
            f"/{name}/{method}".encode(): rpc for name, rpcs in service.rpcs.items() for method, rpc in rpcs.items()
        }
        shared = Shared(routes, limits, self._traffic, access, Admission(self._traffic, limits.max_waiting_calls))
        self._tls = certificates.grpc_context if certificates else None
        self._hub = Hub(shared, Ledger(limits.held_bytes), self._find_place, self._relieve)
        self._hub.empty.set()
        self._sockets = [] if host is None else listen_on_network(host, port)
        self.port: int = self._sockets[0].getsockname()[1] if self._sockets else port
        self._unix_socket = unix_socket
        if unix_socket:
            self._sockets.append(listen_at_path(unix_socket))
        self._servers: list[asyncio.Server] = []
        self._adopting: set[asyncio.Task[None]] = set()
        self._leaving = False

    @property
    def in_progress(self) -> int:
        """Requests that are not answered yet."""
        return self._traffic.in_progress

    @property
    def refused(self) -> Mapping[type[RequestError], int]:
        """Inference requests that were turned away by their headers, by the error that stands for the reason."""
        return self._hub.shared.admission.refused

    @property
    def connections(self) -> int:
        """Open ones."""
        return len(self._hub.connections)

    @property
    def endings(self) -> Mapping[str, int]:
        """Connections that were closed from this side, by why."""
        return self._hub.endings

    async def start(self) -> None:
        """Begins to accept connections."""
        for listening in self._sockets:
            self._servers.append(await self._serve(listening))

    async def _serve(self, listening: socket.socket) -> asyncio.Server:
        loop, tls = asyncio.get_running_loop(), self._tls
        # asyncio accepts as many at once as it lets wait; how many may wait is set anew after it.
        if listening.family == socket.AF_UNIX:
            server = await loop.create_unix_server(self._connect, sock=listening, backlog=_ACCEPTED_AT_ONCE)
        else:
            handshake = self._limits.greeting_seconds if tls else None
            server = await loop.create_server(
                self._connect, sock=listening, backlog=_ACCEPTED_AT_ONCE, ssl=tls, ssl_handshake_timeout=handshake
            )
        listening.listen(BACKLOG)
        return server

    def adopt(self, accepted: socket.socket, ended: Callable[[], None]) -> None:
        """Serves a connection that another process has accepted; calls `ended` when it is no more."""
        task = asyncio.create_task(self._adopt(accepted, ended))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _adopt(self, accepted: socket.socket, ended: Callable[[], None]) -> None:
        tls = None if accepted.family == socket.AF_UNIX else self._tls
        try:
            _, connection = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: AdoptedConnection(self._hub, ended),
                accepted,
                ssl=tls,
                ssl_handshake_timeout=self._limits.greeting_seconds if tls else None,
            )
        except OSError as error:  # the client has gone, or speaks no TLS, or not ours
            log.debug("A connection did not come about: %s", error)
            ended()
        else:
            if self._leaving:
                connection.leave(Ending.STOP)

    def send_away(self, count: int) -> None:
        """Has so many connections end, the oldest ones, as soon as their calls have: their clients open others."""
        for connection in list(itertools.islice(self._hub.connections, count)):
            connection.leave(Ending.BALANCE)

    def leave(self) -> None:
        """Accepts no more connections, and asks clients to take their calls elsewhere; open calls go on."""
        self._leaving = True
        for server in self._servers:
            server.close()
        if self._unix_socket and self._servers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._unix_socket)
        self._servers.clear()
        for connection in list(self._hub.connections):
            connection.leave(Ending.STOP)

    async def stop(self, grace: float) -> None:
        """Waits until all is answered and clients have gone, at most `grace` seconds, then closes what is left."""
        self.leave()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._traffic.silence(), grace)
        for connection in list(self._hub.connections):
            connection.end_streams()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hub.empty.wait(), grace)
        for connection in list(self._hub.connections):
            connection.cut(Ending.STOP)
        await asyncio.sleep(0)

    def _connect(self) -> Connection:
        return Connection(self._hub)

    def _find_place(self, new: Connection) -> None:
        """Above the limit, an idle connection makes room for a new one; if none is idle, the new one goes."""
        connections, limit = self._hub.connections, self._limits.max_connections
        if len(connections) <= limit:
            return
        idlest = max(itertools.islice(connections, _LOOKED_AT), key=lambda connection: connection.idle_seconds)
        if idlest is new or idlest.idle_seconds == 0:
            new.cut(Ending.PLACE)
        else:
            idlest.make_room(at_once=len(connections) > limit + max(_LEAVING, limit // 10))

    def _relieve(self) -> None:
        """Some must go when all together make us hold too much: who hold the most."""
        ledger, gone = self._hub.ledger, 0
        for worst in sorted(self._hub.connections, key=lambda connection: connection.held, reverse=True):
            if ledger.held <= ledger.limit * _RELIEVED_TO:
                break
            worst.cut(Ending.MEMORY)
            gone += 1
        log.warning("%d connections that held the most are closed: memory for all is used up.", gone)
