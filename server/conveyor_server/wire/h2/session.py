"""The HTTP/2 session of one connection: bytes in, calls; answers, bytes out. No I/O.

With `answers`, the only module that imports the HTTP/2 library. Knows frames and calls, not sockets; what it has to
send is asked for when the event loop's turn is over.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

import ngh2

from conveyor_server.core.errors import Overloaded, PeerTooSlow, RequestError, UnknownMethod
from conveyor_server.wire.access import Access
from conveyor_server.wire.h2.admission import Admission
from conveyor_server.wire.h2.answers import Answers
from conveyor_server.wire.h2.calls import H2Call
from conveyor_server.wire.h2.headers import Headers, HeadReader, NoGrpcRequest
from conveyor_server.wire.h2.limits import Limits
from conveyor_server.wire.h2.messages import MessageReader
from conveyor_server.wire.h2.pacing import BYTE_SECONDS, CALL_SECONDS, MESSAGE_ANSWERED_SECONDS, TASK_SECONDS
from conveyor_server.wire.h2.packed_messages import Line, Unpacker
from conveyor_server.wire.h2.packed_reader import PackedReader
from conveyor_server.wire.h2.stream_call import StreamCall
from conveyor_server.wire.h2.unary_call import UnaryCall
from conveyor_server.wire.rpc import Immediate, Rpc, ServerStream, TwoWayStream, Unary
from conveyor_server.wire.status import STATUS_OF, Status
from conveyor_server.wire.traffic import Traffic

STREAM_WINDOW, CONNECTION_WINDOW, LARGE_WINDOW = 2**20, 2**18, 2**22
"""Bytes that a client may send before it must wait for us: of one call, of all, and of all once one was large.

What waits to be answered counts. So under overload requests wait at the client, which knows when they are of no use any
more, and not in the network, where nobody does.
"""
LARGEST_FRAME = 2**17
"""Bytes. Clients that make use of it send 32 pictures in one frame instead of seven."""
MOST_UNSENT = 2**20
"""Bytes of answers that wait for a client, above which further ones earn it nothing."""
MOST_NOISE = 10_000
"""Frames that bring nothing, which a client may send between two looks, on top of ten for each request.

gRPC's clients send one or two with all that they read, and read each answer on a stream by itself."""
_LEAVING = b"leaving "
_ALIVE = b"alive?  "

_CALLS: Mapping[type[Rpc], Callable[..., H2Call]] = {
    Immediate: UnaryCall,
    Unary: UnaryCall,
    ServerStream: StreamCall,
    TwoWayStream: StreamCall,
}
_CONFIGURATION = ngh2.Configuration(
    auto_window_update=False,
    # A proxy passes on the cancels of all its clients; what a cancelled call costs us is bounded in other ways.
    stream_reset_rate_limit=(10_000, 2_000),
)


class SessionBroken(Exception):
    """The peer broke the protocol, or a limit that ends a connection.

    Args:
        text: how it did.
        last_words: bytes to send before the connection is closed, if it can still be told.
    """

    def __init__(self, text: str, last_words: bytes = b"") -> None:
        super().__init__(text)
        self.last_words = last_words


@dataclass(frozen=True)
class Shared:
    """What the sessions of a transport have in common."""

    routes: Mapping[bytes, Rpc]
    """By path: `/service/method`."""
    limits: Limits
    traffic: Traffic
    access: Access | None
    """Who may call what; None lets all in."""
    admission: Admission
    unpacker: Unpacker = field(default_factory=Unpacker)


class Session:
    """Frames and calls of one connection.

    Args:
        shared: what it has in common with others.
        output_soon: is told that there may be something to send.

    Attributes:
        calls: open ones, by stream.
        line: compressed messages that wait to be unpacked.
        opened: requests so far: calls, and messages on streams.
        greeted: whether the client has begun with HTTP/2.
        unread: bytes of messages that are not whole, or not read by their handlers, of all calls.
        earned: seconds of our time to which its answers entitle the client, less those that its calls take later.
        over: whether nothing more can come or go.
    """

    def __init__(self, shared: Shared, output_soon: Callable[[], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.traffic = shared.traffic
        self.access = shared.access
        self.admission = shared.admission
        self.max_message_bytes = shared.limits.max_message_bytes
        self.calls: dict[int, H2Call] = {}
        self.opened = self.unread = 0
        self.earned = 0.0
        self.line = Line(shared.unpacker, self)
        self.greeted = self.over = False
        self._shared = shared
        self._output_soon = output_soon
        self._heads = HeadReader(shared.limits.header_bytes)
        self._leaving = self._large = False
        self._noise = self._noted = 0
        self._http2 = ngh2.Connection(ngh2.Role.SERVER, _CONFIGURATION)
        self._http2.initiate_connection(
            {
                ngh2.Setting.MAX_CONCURRENT_STREAMS: shared.limits.max_streams,
                ngh2.Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                ngh2.Setting.MAX_FRAME_SIZE: LARGEST_FRAME,
                ngh2.Setting.MAX_HEADER_LIST_SIZE: shared.limits.header_bytes,
            }
        )
        self._http2.set_local_window_size(CONNECTION_WINDOW)
        self._answers = Answers(self._http2, output_soon)

    # ---- bytes

    def receive(self, data: memoryview) -> None:
        """Takes what came; calls that are complete begin.

        Raises:
            SessionBroken: nothing more can be made of this connection.
        """
        try:
            self._http2.receive_data(data)
            self._handle(self._http2.events())
        except ngh2.NGH2Error as error:
            raise SessionBroken(str(error)) from error

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
        self._answers.sent()
        if self._leaving and not self.over and len(data) < most:
            self._answers.close_half_open(also_busy=True)
        return data

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
        if self.over:
            return
        self._http2.ping(_ALIVE)
        self._output_soon()

    def leave(self) -> None:
        """Tells the client to open no more calls; when it has read that, later ones are none of ours."""
        if self.over:
            return
        self._leaving = True
        self._http2.send_shutdown_notice()
        self._http2.ping(_LEAVING)
        self._output_soon()

    def leave_for_good(self) -> None:
        """Calls that come now are none of ours. The session is over when those that are open have ended."""
        if self.over:
            return
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
        for call in [call for call in self.calls.values() if call.held or not call.ended]:
            if not isinstance(call, StreamCall) and (
                call.deadline <= now or (not call.ended and is_too_slow(now - call.opened_at, call.received))
            ):
                self.refuse(call, PeerTooSlow("The request did not come in time."))

    def lose(self) -> None:
        """Nothing more can come or go: all calls are cancelled."""
        self.over = True
        self.line.clear()
        calls, self.calls = list(self.calls.values()), {}
        for call in calls:
            call.drop()
            call.cancel()
        self._answers.lose()

    # ---- what comes

    def _handle(self, events: Iterable[ngh2.Event]) -> None:
        for event in events:
            if isinstance(event, ngh2.DataReceived):
                self._take(event.stream_id, event.data, event.end_stream)
            elif isinstance(event, ngh2.RequestReceived):
                self._open(event.stream_id, event.headers, event.end_stream)
            elif isinstance(event, ngh2.StreamClosed):
                self._close(event.stream_id)
            elif isinstance(event, ngh2.TrailersReceived):
                self._take(event.stream_id, b"", True)
            elif isinstance(event, ngh2.ConnectionClosed):
                self.lose()
            elif isinstance(event, ngh2.PingAcknowledged):
                if event.opaque_data == _LEAVING and self._leaving:
                    self.leave_for_good()
                self._note_noise()
            else:
                self.greeted = self.greeted or isinstance(event, ngh2.SettingsReceived)
                self._note_noise()

    def _open(self, stream_id: int, headers: Headers, end: bool) -> None:
        self.opened += 1
        try:
            head, timeout = self._heads.read(headers)
            rpc = self._shared.routes.get(head.path)
            if rpc is None:
                raise UnknownMethod(f"Method not found: {head.path[:200].decode('latin-1')}")
            if self._shared.access is not None and rpc.scope is not None:
                self._shared.access.check(rpc.scope, head.authorization)
        except RequestError as error:
            self._answers.refuse_stream(stream_id, error, end)
            return
        except NoGrpcRequest as error:
            self._answers.answer_in_http(stream_id, error, end)
            return
        if type(rpc) is Immediate and (refusal := self.admission.refusal(timeout)) is not None:
            self.earned += CALL_SECONDS
            self._answers.send_status(stream_id, refusal, end)
            return
        if type(rpc) is not Immediate:
            self.earned -= TASK_SECONDS
        now = self.loop.time()
        deadline = inf if timeout is None else now + timeout
        self.calls[stream_id] = _CALLS[type(rpc)](self, stream_id, head, now, deadline, rpc)
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
            let_in = 0 if call.withheld else len(data)
            self.give_up(call, error)
        if let_in:
            self._acknowledge(let_in, stream_id)
        elif not data and not end:
            self._note_noise()
        if self.unread > self._shared.limits.held_bytes_per_connection:
            self.bound(call)

    def _drop(self, stream_id: int, data: bytes, end: bool) -> None:
        """More of a call that has been refused."""
        half_open = self._answers.half_open
        if data:
            self._acknowledge(len(data), stream_id)
        if end:
            half_open.pop(stream_id, None)
        elif stream_id in half_open:
            half_open[stream_id] += len(data)
            if half_open[stream_id] > self.max_message_bytes:
                raise SessionBroken("it sends on after the end of a call")

    def _close(self, stream_id: int) -> None:
        """The stream has ended, as it should or by a reset."""
        if self._answers.half_open or self._answers.room:
            self._answers.closed(stream_id)
        call = self.calls.pop(stream_id, None)
        if call is not None:
            self._let_go(call)
            call.cancel()

    def _note_noise(self) -> None:
        self._noise += 1
        if self._noise > MOST_NOISE + 10 * (self.opened - self._noted):
            # gRPC's clients know these words, and ask less often.
            self._http2.send_goaway(ngh2.ErrorCode.ENHANCE_YOUR_CALM, debug_data=b"too_many_pings")
            raise SessionBroken("too many frames that bring nothing", self._http2.data_to_send())

    def look(self) -> None:
        """Some time has passed: what was sent before is forgiven, and what has ended is closed."""
        self._noise, self._noted = 0, self.opened
        self._answers.close_half_open()

    # ---- what calls ask for

    def respond(self, call: H2Call, framed: bytes) -> None:
        """Sends a response that is one message, and ends the call."""
        self.calls.pop(call.stream_id, None)
        self.earned += CALL_SECONDS + call.unpacked * BYTE_SECONDS
        if call.withheld:
            self._acknowledge(call.withheld, call.stream_id)
        self._answers.respond(call, framed)

    async def send(self, call: H2Call, framed: bytes) -> None:
        """Sends one message of many; returns when there is room for another."""
        if self.unsent < MOST_UNSENT:  # whoever lets answers lie does not need them
            self.earned += MESSAGE_ANSWERED_SECONDS
        await self._answers.send(call, framed)

    def finish(self, call: H2Call) -> None:
        """Ends a call of many messages with the status OK."""
        if self._forget(call):
            self._answers.finish(call)

    def refuse(self, call: H2Call, error: RequestError) -> None:
        """Ends the call with the error's status."""
        if self._forget(call):
            if STATUS_OF[type(error)] is Status.UNAVAILABLE:
                self.earned += CALL_SECONDS  # that is not the client's doing
            self._answers.refuse(call, error)

    def bound(self, call: H2Call) -> None:
        """Refuses the call if the connection makes us hold too much."""
        if self.unread > self._shared.limits.held_bytes_per_connection and call.held:
            self.give_up(call, Overloaded("Too many requests of this connection are under way and not complete."))

    def give_up(self, call: H2Call, error: RequestError) -> None:
        """Refuses a call that may be waiting for more: what came is not what it takes."""
        self.refuse(call, error)
        call.cancel()

    def reader_of_packed(self, call: H2Call) -> MessageReader:
        """Reads messages that may be compressed."""
        return PackedReader(self.line, call, self.max_message_bytes)

    def look_soon(self) -> None:
        """What is held has changed, and there may be something to send."""
        self._output_soon()

    def expect_large(self) -> None:
        """A large message is coming: lets the client send it faster."""
        if not self._large:
            self._large = True
            self._http2.set_local_window_size(LARGE_WINDOW)

    def let_in(self, call: H2Call, count: int) -> None:
        """Lets the client send so many more bytes."""
        self._acknowledge(count, call.stream_id)
        self._output_soon()

    def _acknowledge(self, count: int, stream_id: int) -> None:
        """Lets the client send so many more bytes, unless it has just broken the protocol and will be told so."""
        try:
            self._http2.acknowledge_received_data(count, stream_id)
        except ngh2.NGH2Error:
            return

    def _forget(self, call: H2Call) -> bool:
        """Whether the call was there to be ended."""
        if self.calls.pop(call.stream_id, None) is None:
            return False
        self._let_go(call)
        return True

    def _let_go(self, call: H2Call) -> None:
        self.unread -= call.held
        call.drop()
        if call.withheld:
            self._acknowledge(call.withheld, call.stream_id)
            call.withheld = 0
