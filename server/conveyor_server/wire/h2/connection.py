"""One connection on asyncio: moves bytes between the socket and the HTTP/2 session, and ends what has gone bad.

Everything that is answered within one turn of the event loop leaves in one write.
"""

import asyncio
import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from conveyor_server.wire.h2.limits import Action, Ending, Ledger, Patience, Sight
from conveyor_server.wire.h2.pacing import READ_MOST, Pace, Purse
from conveyor_server.wire.h2.session import Session, SessionBroken, Shared

log = logging.getLogger(__name__)

WRITE_AT_ONCE = 2**18
"""More stays with the session, which knows what the client is ready to take."""
CALL_BYTES = 2**14
"""What an open call takes by itself; one with a task takes 13 KB."""
NEWLY_IDLE_SECONDS = 10.0
"""So long a connection without calls is none that gives way, if it has had some."""
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
        purse: what they may take of our time for nothing.
        buffer: what was read last; it is handled before anything else is read.
    """

    shared: Shared
    ledger: Ledger
    find_place: "Callable[[Connection], None]"
    relieve: Callable[[], None]
    connections: "dict[Connection, None]" = field(default_factory=dict)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    endings: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(Ending, 0)))
    purse: Purse = field(default_factory=lambda: Purse(asyncio.get_running_loop().time()))
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_MOST)))


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
        self._session.line.gate = self
        self._patience = Patience(hub.shared.limits, self._loop.time(), random.uniform(0.9, 1.1))
        self._writable = self._leaving = False
        self._received = self._written = 0
        self._pace = Pace(hub.purse)
        self._flushing: asyncio.Handle | None = None
        self._pausing: asyncio.TimerHandle | None = None
        self._ticking: asyncio.TimerHandle | None = None

    @property
    def idle_seconds(self) -> float:
        """How long no call has been open; 0 while one is, and a little longer."""
        if self._session.calls:
            return 0.0
        idle = self._patience.idle_for(self._loop.time())
        return idle if idle >= NEWLY_IDLE_SECONDS or not self._session.opened else 0.0

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
        return self._hub.buffer[: self._pace.appetite]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        self._received += nbytes
        if self._session.over:
            return
        began = time.thread_time()  # a busy machine must not make a client look expensive
        try:
            self._session.receive(self._hub.buffer[:nbytes])
        except SessionBroken as error:
            self._break(error)
            return
        self._pace_reading(nbytes, began)
        if self._session.has_output or self._session.over:
            self._flush_soon()
        else:
            self._account()

    def _pace_reading(self, size: int, began: float) -> None:
        self._earn()
        pause = self._pace.read(size, time.thread_time() - began, self._loop.time())
        if pause or self._pace.hopeless:
            self._pause(pause)

    def _pause(self, seconds: float) -> None:
        if self._pace.hopeless:
            self.cut(Ending.WASTE)
        elif not self._session.over:
            self._end_pause()
            self._transport.pause_reading()
            self._session.line.paused = True
            self._hub.purse.waiting += 1
            self._pausing = self._loop.call_later(seconds, self._read_on)

    def settle(self) -> None:
        """A message was unpacked: what that took is to be paid now."""
        self._earn()
        if self._pace.owes:
            was_paused = self._pausing is not None
            self._end_pause()
            if pause := self._pace.wait(self._loop.time()):
                self._pause(pause)
            elif was_paused:
                self._read_on()

    def hold_up(self) -> None:
        """Nothing more is to be read, for too much waits to be unpacked."""
        self._transport.pause_reading()

    def let_on(self) -> None:
        """There is room again."""
        if self._pausing is None and not self._session.over:
            self._transport.resume_reading()

    def _earn(self) -> None:
        self._pace.earn(self._session.earned)
        self._session.earned = 0.0

    def _read_on(self) -> None:
        self._end_pause()
        self._pace.waited()
        line = self._session.line
        line.go_on()
        if not line.is_full:
            self._transport.resume_reading()

    def _end_pause(self) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
            self._hub.purse.waiting -= 1

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
        self._end_pause()
        self._session.lose()
        self._hub.ledger.held -= self.held
        self.held = 0

    def _flush_soon(self) -> None:
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        session = self._session
        if self._writable and not session.over:
            began = time.thread_time()
            try:
                data = session.output(WRITE_AT_ONCE)
            except SessionBroken as error:
                self._break(error)
                return
            if data:
                self._written += len(data)
                self._transport.write(data)
            self._pace.spend(len(data), time.thread_time() - began)
            if self._pausing is not None:
                self._earn()
                if not self._pace.owes:  # it was answered in the meantime
                    self._read_on()
            if len(data) >= WRITE_AT_ONCE and not session.over:
                self._flush_soon()
        if self._writable and session.over:
            self._loop.call_later(LINGER_SECONDS, self._transport.close)
        self._account()

    def _account(self) -> None:
        """Notes what this peer makes us hold, and cuts it off when that is too much."""
        if self._session.over:
            return
        unsent = self._session.unsent + self._transport.get_write_buffer_size()
        held = unsent + self._session.unread + CALL_BYTES * len(self._session.calls)
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
