"""The HTTP/2 session of one connection: bytes in, calls; answers, bytes out. No I/O. Owns the HTTP/2 library.

Knows frames and calls, not sockets; what it has to send is asked for when the event loop's turn is over.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import ngh2

from conveyor_server.core.errors import Overloaded, PeerTooSlow, RequestError, UnknownMethod
from conveyor_server.wire.h2.calls import NO_METADATA, H2Call, StreamCall, open_call
from conveyor_server.wire.h2.headers import (
    COMPRESSED_RESPONSE,
    OK,
    RESPONSE,
    Header,
    HeadReader,
    Headers,
    NoGrpcRequest,
    metadata_headers,
    refusal_headers,
    status_headers,
)
from conveyor_server.wire.h2.limits import Limits
from conveyor_server.wire.rpc import Rpc
from conveyor_server.wire.status import STATUS_OF
from conveyor_server.wire.traffic import Traffic

STREAM_WINDOW = 2**20
"""Bytes that a client may send of one call before it must wait for us."""
CONNECTION_WINDOW = 2**24
MOST_QUEUED = 2**18
"""Bytes of one stream of answers that wait to be sent before its handler waits too."""
MOST_NOISE = 10_000
"""Frames that bring nothing, which a client may send between two looks, on top of ten for each call."""
_LEAVING = b"leaving "
_ALIVE = b"alive?  "

_CONFIGURATION = ngh2.Configuration(
    auto_window_update=False,
    # A proxy passes on the cancels of all its clients; what a cancelled call costs us is bounded in other ways.
    stream_reset_rate_limit=(10_000, 2_000),
)


class SessionBroken(Exception):
    """The peer broke the protocol, or a limit that ends a connection. The text says how."""


@dataclass(frozen=True)
class Shared:
    """What the sessions of a transport have in common."""

    routes: Mapping[bytes, Rpc]
    """By path: `/service/method`."""
    limits: Limits
    traffic: Traffic
    admit: Callable[[Rpc, float], None]
    """Raises a RequestError when a call of this kind, with this deadline, is not worth reading."""


class Session:
    """Frames and calls of one connection.

    Args:
        shared: what it has in common with others.
        output_soon: is told that there may be something to send.

    Attributes:
        calls: open ones, by stream.
        opened: how many there were so far.
        greeted: whether the client has begun with HTTP/2.
        unread: bytes of messages that are not whole, or not read by their handlers, of all calls.
        over: whether nothing more can come or go.
    """

    def __init__(self, shared: Shared, output_soon: Callable[[], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.traffic = shared.traffic
        self.max_message_bytes = shared.limits.max_message_bytes
        self.calls: dict[int, H2Call] = {}
        self.opened = self.unread = 0
        self.greeted = self.over = False
        self._shared = shared
        self._output_soon = output_soon
        self._heads = HeadReader(shared.limits.header_bytes)
        self._half_open: set[int] = set()
        """Streams of calls that we have ended and the client has not."""
        self._room: dict[int, asyncio.Future[None]] = {}
        """Streams whose handlers wait until their last message is on its way."""
        self._noise = self._noted = 0
        self._http2 = ngh2.Connection(ngh2.Role.SERVER, _CONFIGURATION)
        self._http2.initiate_connection(
            {
                ngh2.Setting.MAX_CONCURRENT_STREAMS: shared.limits.max_streams,
                ngh2.Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                ngh2.Setting.MAX_HEADER_LIST_SIZE: shared.limits.header_bytes,
            }
        )
        self._http2.set_local_window_size(CONNECTION_WINDOW)

    # ---- bytes

    def receive(self, data: memoryview) -> None:
        """Takes what came; calls that are complete begin.

        Raises:
            SessionBroken: nothing more can be made of this connection.
        """
        try:
            self._http2.receive_data(data)
        except ngh2.NGH2Error as error:
            raise SessionBroken(str(error)) from error
        self._handle(self._http2.events())

    def output(self, most: int) -> bytes:
        """What is to be sent now; if it is `most` bytes, there is more.

        Raises:
            SessionBroken: as `receive` does.
        """
        try:
            data = self._http2.data_to_send(most)
        except ngh2.NGH2Error as error:
            raise SessionBroken(str(error)) from error
        self._handle(self._http2.events())
        if self._room:
            self._give_room()
        if self._half_open and len(data) < most:
            self._close_half_open()
        return data

    def _close_half_open(self) -> None:
        """Tells clients that have read the end of a call to send no more of it (RFC 9113, 8.1)."""
        for stream_id in [s for s in self._half_open if not self._http2.queued_body_size(s)]:
            self._half_open.remove(stream_id)
            self._http2.reset_stream(stream_id, ngh2.ErrorCode.NO_ERROR)
            self._output_soon()

    @property
    def has_output(self) -> bool:
        """Whether there is something to send."""
        return self._http2.want_write

    @property
    def unsent(self) -> int:
        """Bytes of answers that the client is not ready to take, or that have not been asked for."""
        return self._http2.queued_body_size()

    # ---- the life of the connection

    def ask_for_life(self) -> None:
        """Asks the peer for a sign of life."""
        self._http2.ping(_ALIVE)
        self._output_soon()

    def leave(self) -> None:
        """Tells the client to open no more calls; when it has read that, later ones are none of ours."""
        self._http2.send_shutdown_notice()
        self._http2.ping(_LEAVING)
        self._output_soon()

    def leave_for_good(self) -> None:
        """Calls that come now are none of ours. The session is over when those that are open have ended."""
        self._http2.send_goaway()
        self._output_soon()

    def end_streams(self) -> None:
        """Ends streams that would go on, with a code that clients retry elsewhere."""
        for call in list(self.calls.values()):
            if isinstance(call, StreamCall):
                call.leave()

    def end_slow_requests(self, is_too_slow: Callable[[float, int], bool]) -> None:
        """Refuses calls whose request does not come at a fair pace, and those whose deadline has passed meanwhile."""
        now = self.loop.time()
        for call in [call for call in self.calls.values() if not call.ended]:
            if not isinstance(call, StreamCall) and (call.deadline <= now or is_too_slow(now - call.opened_at, call.received)):
                self.refuse(call, PeerTooSlow("The request did not come in time."))

    def lose(self) -> None:
        """The connection has gone: all calls are cancelled."""
        self.over = True
        calls, self.calls = list(self.calls.values()), {}
        for call in calls:
            call.cancel()
        for room in self._room.values():
            room.cancel()

    # ---- what comes

    def _handle(self, events: Iterable[ngh2.Event]) -> None:
        for event in events:
            kind = type(event)
            if kind is ngh2.DataReceived:
                self._take(event.stream_id, event.data, event.end_stream)
            elif kind is ngh2.RequestReceived:
                self._open(event.stream_id, event.headers, event.end_stream)
            elif kind is ngh2.StreamClosed:
                self._close(event.stream_id)
            elif kind is ngh2.TrailersReceived:
                self._take(event.stream_id, b"", True)
            elif kind is ngh2.ConnectionClosed:
                self.over = True
            elif kind is ngh2.PingAcknowledged:
                if event.opaque_data == _LEAVING:
                    self.leave_for_good()
            else:
                self.greeted = self.greeted or kind is ngh2.SettingsReceived
                self._note_noise()

    def _open(self, stream_id: int, headers: Headers, end: bool) -> None:
        self.opened += 1
        try:
            head = self._heads.read(headers)
            rpc = self._shared.routes.get(head.path)
            if rpc is None:
                raise UnknownMethod(f"Method not found: {head.path[:200].decode('latin-1')}")
            self._shared.admit(rpc, head.timeout)
        except RequestError as error:
            self._send_refusal(stream_id, error, end)
        except NoGrpcRequest as error:
            self._answer_in_http(stream_id, error, end)
        else:
            self.calls[stream_id] = open_call(self, stream_id, head, rpc)
            if end:
                self._take(stream_id, b"", True)

    def _take(self, stream_id: int, data: bytes, end: bool) -> None:
        call = self.calls.get(stream_id)
        if call is None:
            self._drop(stream_id, data, end)
            return
        call.ended = end
        try:
            let_in = call.take(data)
        except RequestError as error:
            self.refuse(call, error)
            let_in = len(data)
        if let_in:
            self._http2.acknowledge_received_data(let_in, stream_id)
        elif not end:
            self._note_noise()
        if self.unread > self._shared.limits.held_bytes_per_connection and call.held:
            self.refuse(call, Overloaded("Too many requests of this connection are under way and not complete."))

    def _drop(self, stream_id: int, data: bytes, end: bool) -> None:
        """More of a call that has been refused."""
        if data:
            self._http2.acknowledge_received_data(len(data), stream_id)
        if end:
            self._half_open.discard(stream_id)

    def _close(self, stream_id: int) -> None:
        """The stream has ended, as it should or by a reset."""
        self._half_open.discard(stream_id)
        call = self.calls.pop(stream_id, None)
        if call is not None:
            self.unread -= call.held
            call.cancel()
            if (room := self._room.pop(stream_id, None)) is not None:
                room.cancel()

    def _note_noise(self) -> None:
        self._noise += 1
        if self._noise > MOST_NOISE + 10 * (self.opened - self._noted):
            raise SessionBroken("too many frames that bring nothing")

    def look(self) -> None:
        """Some time has passed: what was sent before is forgiven."""
        self._noise, self._noted = 0, self.opened

    # ---- what goes

    def respond(self, call: H2Call, framed: bytes) -> None:
        """Sends a response that is one message, and ends the call."""
        http2, stream_id = self._http2, call.stream_id
        self.calls.pop(stream_id, None)
        try:
            http2.send_response(stream_id, _headers_of(call, framed))
            http2.send_data(stream_id, framed)
            http2.send_trailers(stream_id, OK if call.trailing_metadata is NO_METADATA else _trailers_of(call))
        except ngh2.NGH2Error:
            return  # the client has given it up, or the connection is ending
        self._output_soon()

    async def send(self, call: H2Call, framed: bytes) -> None:
        """Sends one message of many; returns when there is room for another."""
        http2, stream_id = self._http2, call.stream_id
        try:
            self._begin(call, framed)
            http2.send_data(stream_id, framed)
        except ngh2.NGH2Error as error:
            raise asyncio.CancelledError from error  # the client has given it up, or the connection is ending
        self._output_soon()
        if http2.queued_body_size(stream_id) > MOST_QUEUED:
            room = self._room[stream_id] = self.loop.create_future()
            await room

    def _give_room(self) -> None:
        for stream_id in [s for s in self._room if self._http2.queued_body_size(s) <= MOST_QUEUED]:
            room = self._room.pop(stream_id)
            if not room.done():
                room.set_result(None)

    def finish(self, call: H2Call) -> None:
        """Ends a call of many messages with the status OK."""
        self._end(call, _trailers_of(call))

    def refuse(self, call: H2Call, error: RequestError) -> None:
        """Ends the call with the error's status."""
        if call.answering:
            status = status_headers(STATUS_OF[type(error)], str(error))
            self._end(call, (*status, *metadata_headers(call.trailing_metadata)))
        elif self._forget(call):
            self._send_refusal(call.stream_id, error, call.ended, metadata_headers(call.trailing_metadata))

    def _begin(self, call: H2Call, framed: bytes) -> None:
        if not call.answering:
            call.answering = True
            self._http2.send_response(call.stream_id, _headers_of(call, framed))

    def _end(self, call: H2Call, trailers: Headers) -> None:
        if not self._forget(call):
            return
        try:
            self._begin(call, b"")
            self._http2.send_trailers(call.stream_id, trailers)
        except ngh2.NGH2Error:
            return
        self._note_end(call.stream_id, call.ended)

    def _note_end(self, stream_id: int, ended: bool) -> None:
        """The answer is complete; the request may not be."""
        if not ended:
            self._half_open.add(stream_id)
        self._output_soon()

    def _forget(self, call: H2Call) -> bool:
        """Whether the call was there to be ended."""
        if self.calls.pop(call.stream_id, None) is None:
            return False
        self.unread -= call.held
        return True

    def _send_refusal(
        self, stream_id: int, error: RequestError, ended: bool, metadata: tuple[Header, ...] = ()
    ) -> None:
        headers = (*refusal_headers(STATUS_OF[type(error)], str(error)), *metadata)
        try:
            self._http2.send_response(stream_id, headers, end_stream=True)
        except ngh2.NGH2Error:
            return
        self._note_end(stream_id, ended)

    def _answer_in_http(self, stream_id: int, error: NoGrpcRequest, ended: bool) -> None:
        headers = ((b":status", b"%d" % error.status), (b"content-type", b"text/plain"))
        try:
            self._http2.send_response(stream_id, headers)
            self._http2.send_data(stream_id, f"{error}\n".encode(), end_stream=True)
        except ngh2.NGH2Error:
            return
        self._note_end(stream_id, ended)

    def let_in(self, call: H2Call, count: int) -> None:
        """Lets the client send so many more bytes."""
        self._http2.acknowledge_received_data(count, call.stream_id)
        self._output_soon()


def _headers_of(call: H2Call, framed: bytes) -> Headers:
    compressed = framed[:1] == b"\x01"
    headers = COMPRESSED_RESPONSE[call.head.encoding] if compressed else RESPONSE
    return (*headers, *metadata_headers(call.initial_metadata)) if call.initial_metadata else headers


def _trailers_of(call: H2Call) -> Headers:
    return (*OK, *metadata_headers(call.trailing_metadata)) if call.trailing_metadata else OK
