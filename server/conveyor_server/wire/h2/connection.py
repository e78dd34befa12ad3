"""One connection on asyncio: moves bytes between the socket and the HTTP/2 session, and ends what has gone bad.

Everything that is answered within one turn of the event loop leaves in one write.
"""

import asyncio
import logging
import random
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from conveyor_server.wire.h2.limits import Action, Ending, Ledger, Patience, Sight
from conveyor_server.wire.h2.session import Session, SessionBroken, Shared

log = logging.getLogger(__name__)

READ_FIRST, READ_AT_ONCE = 2**16, 2**18
"""Bytes that are handled before other connections have their turn: while calls may be small, and when they are not."""
CALLS_AT_ONCE = 64
"""The same for calls: where they are small, less is read."""
WRITE_AT_ONCE = 2**18
"""More stays with the session, which knows what the client is ready to take."""
TICK_SECONDS = 2.0
LEAVING_SECONDS = 1.0
"""How long a client may take to confirm that it has read that it must leave."""
LINGER_SECONDS = 1.0
"""How long a client may take to close a connection on which all has been answered.

Were it closed from this side at once, whatever the client still sends would be answered with a reset, and that throws
away what the client has received and not read: its last answers (RFC 9112, 9.6). Some proxies take even the end of the
connection for that of an answer.
"""


@dataclass
class Hub:
    """The connections of a transport, and what they share.

    Attributes:
        find_place: sees to it that there is a place for a new connection.
        relieve: makes room when the ledger is over its limit.
        empty: set while there is no connection.
        endings: connections that were closed from this side, by why.
        buffer: what was read last; it is handled before anything else is read.
    """

    shared: Shared
    ledger: Ledger
    find_place: "Callable[[Connection], None]"
    relieve: Callable[[], None]
    connections: "dict[Connection, None]" = field(default_factory=dict)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    endings: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(Ending, 0)))
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_AT_ONCE)))


class Connection(asyncio.BufferedProtocol):
    """One connection, from its first byte to its last.

    Args:
        hub: what it shares with the others.

    Attributes:
        held: bytes that this peer makes us hold.
    """

    def __init__(self, hub: Hub) -> None:
        self.held = 0
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._session = Session(hub.shared, self._flush_soon)
        self._patience = Patience(hub.shared.limits, self._loop.time(), random.uniform(0.9, 1.1))
        self._writable = self._leaving = False
        self._received = self._written = 0
        self._appetite = READ_FIRST
        """Bytes to read next."""
        self._flushing: asyncio.Handle | None = None
        self._ticking: asyncio.TimerHandle | None = None

    @property
    def idle_seconds(self) -> float:
        """How long no call has been open; 0 while one is."""
        return 0.0 if self._session.calls else self._patience.idle_for(self._loop.time())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the client."""
        self._transport = cast(asyncio.Transport, transport)
        self._hub.connections[self] = None
        self._hub.empty.clear()
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and cast(ssl.SSLObject, tls).selected_alpn_protocol() != "h2":
            self.cut(Ending.PROTOCOL, "no ALPN of HTTP/2")
            return
        self._transport.set_write_buffer_limits(high=WRITE_AT_ONCE)
        self._writable = True
        self._flush_soon()
        self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)
        self._hub.find_place(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._hub.buffer[: self._appetite]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        self._received += nbytes
        if self._session.over:
            return
        before = self._session.opened
        try:
            self._session.receive(self._hub.buffer[:nbytes])
        except SessionBroken as error:
            self._break(error)
            return
        calls = self._session.opened - before
        self._appetite = min(READ_AT_ONCE, nbytes * CALLS_AT_ONCE // calls) if calls else READ_AT_ONCE
        if self._session.has_output:
            self._flush_soon()
        else:
            self._account()

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._writable = False

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._writable = True
        self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has gone, and with it whoever waited for an answer."""
        self._lose()

    def leave(self, reason: Ending) -> None:
        """Takes no new calls from now on, and closes when those that are open have ended."""
        if self._leaving or self._session.over:
            return
        self._leaving = True
        self._hub.endings[reason] += 1
        self._patience.leaves(self._loop.time())
        self._session.leave()
        self._loop.call_later(LEAVING_SECONDS, self._session.leave_for_good)

    def make_room(self, *, at_once: bool) -> None:
        """Goes, because another needs the place: when the client has had time to read that it must, or at once."""
        if at_once:
            self._session.leave_for_good()
            self._flush()
            self.cut(Ending.PLACE)
            return
        self._hub.connections[self] = self._hub.connections.pop(self, None)  # the next one is asked the next time
        self.leave(Ending.PLACE)
        self._loop.call_later(2 * LEAVING_SECONDS, self.cut, Ending.PLACE)

    def end_streams(self) -> None:
        """Ends streams that would go on, with a code that clients retry elsewhere."""
        self._session.end_streams()

    def _break(self, error: SessionBroken) -> None:
        """Ends a connection whose client did what it must not, with last words if there are any."""
        if error.last_words and self._writable:
            self._transport.write(error.last_words)
        self.cut(Ending.PROTOCOL, str(error), gently=bool(error.last_words))

    def cut(self, reason: Ending, detail: str = "", *, gently: bool = False) -> None:
        """Closes at once; gently, what was written is still sent."""
        log.debug("A connection is closed: %s. %s", reason, detail)
        if not (self._leaving or self._session.over):
            self._hub.endings[reason] += 1
        self._lose()
        if gently:
            self._transport.close()
            return
        self._transport.abort()

    def _lose(self) -> None:
        self._writable = False
        self._hub.connections.pop(self, None)
        if not self._hub.connections:
            self._hub.empty.set()
        if self._ticking is not None:
            self._ticking.cancel()
        self._session.lose()
        self._hub.ledger.held -= self.held
        self.held = 0

    def _flush_soon(self) -> None:
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        session = self._session
        if self._writable:
            try:
                data = session.output(WRITE_AT_ONCE)
            except SessionBroken as error:
                self._break(error)
                return
            if data:
                self._written += len(data)
                self._transport.write(data)
            if session.over:
                self._loop.call_later(LINGER_SECONDS, self._transport.close)
            elif len(data) >= WRITE_AT_ONCE:
                self._flush_soon()
        self._account()

    def _account(self) -> None:
        """Notes what this peer makes us hold, and cuts it off when that is too much."""
        if self._session.over:
            return
        unsent = self._session.unsent + self._transport.get_write_buffer_size()
        held = unsent + self._session.unread
        if held != self.held:
            ledger = self._hub.ledger
            ledger.held += held - self.held
            self.held = held
            if unsent > self._hub.shared.limits.held_bytes_per_connection:
                self.cut(Ending.UNREAD)
            elif ledger.is_over:
                self._hub.relieve()

    def _tick(self) -> None:
        """Looks whether the connection is still worth having."""
        session = self._session
        session.look()
        session.end_slow_requests(self._patience.is_too_slow)
        waiting = self._transport.get_write_buffer_size()
        verdict = self._patience.judge(
            self._loop.time(),
            Sight(
                greeted=session.greeted,
                calls=len(session.calls),
                opened=session.opened,
                received=self._received,
                sent=self._written - waiting,
                unsent=session.unsent + waiting,
            ),
        )
        if verdict.action is Action.CUT:
            self.cut(verdict.reason)
            return
        if verdict.action is Action.LEAVE:
            self.leave(verdict.reason)
        elif verdict.action is Action.PING:
            session.ask_for_life()
        self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)
