"""What goes out on an HTTP/2 session: responses, streams of them, refusals. Knows the calls, not what came of them.

One write carries what many calls are answered with, so nothing is sent here: it is queued with the library.
"""

import asyncio
import contextlib
from collections.abc import Callable

import ngh2

from conveyor_server.core.errors import RequestError
from conveyor_server.wire.h2.calls import NO_METADATA, H2Call
from conveyor_server.wire.h2.headers import (
    OK,
    RESPONSE,
    Header,
    Headers,
    NoGrpcRequest,
    metadata_headers,
    refusal_headers,
    status_headers,
)
from conveyor_server.wire.status import STATUS_OF

MOST_QUEUED = 2**18
"""Bytes of one stream of answers that wait to be sent before its handler waits too."""


class Answers:
    """Queues the answers to calls. A call that the client has given up in the meantime is passed over in silence.

    Args:
        http2: the connection's state in the library.
        output_soon: is told that there is something to send.

    Attributes:
        half_open: streams that we have ended and the client has not, and the bytes that came for each since.
        room: streams whose handlers wait until their last message is on its way.
    """

    def __init__(self, http2: ngh2.Connection, output_soon: Callable[[], None]) -> None:
        self.half_open: dict[int, int] = {}
        self._http2 = http2
        self._output_soon = output_soon
        self.room: dict[int, asyncio.Future[None]] = {}

    def respond(self, call: H2Call, framed: bytes) -> None:
        """Sends a response that is one message."""
        http2, stream_id = self._http2, call.stream_id
        try:
            http2.send_response(stream_id, _headers_of(call))
            http2.send_data(stream_id, framed)
            http2.send_trailers(stream_id, _trailers_of(call))
        except ngh2.NGH2Error:
            return
        self._output_soon()

    async def send(self, call: H2Call, framed: bytes) -> None:
        """Sends one message of many; returns when there is room for another.

        Raises:
            CancelledError: there is nobody to send it to.
        """
        http2, stream_id = self._http2, call.stream_id
        try:
            self._begin(call)
            http2.send_data(stream_id, framed)
        except ngh2.NGH2Error as error:
            raise asyncio.CancelledError from error
        self._output_soon()
        if http2.queued_body_size(stream_id) > MOST_QUEUED:
            room = self.room[stream_id] = asyncio.get_running_loop().create_future()
            await room

    def finish(self, call: H2Call) -> None:
        """Ends a call of many messages with the status OK."""
        self._end(call, _trailers_of(call))

    def refuse(self, call: H2Call, error: RequestError) -> None:
        """Ends a call with the error's status."""
        metadata = metadata_headers(call.trailing_metadata)
        if call.answering:
            self._end(call, (*status_headers(STATUS_OF[type(error)], str(error)), *metadata))
        else:
            self.refuse_stream(call.stream_id, error, call.ended, metadata)

    def refuse_stream(
        self, stream_id: int, error: RequestError, ended: bool, metadata: tuple[Header, ...] = ()
    ) -> None:
        """Sends an error's status."""
        self.send_status(stream_id, (*refusal_headers(STATUS_OF[type(error)], str(error)), *metadata), ended)

    def send_status(self, stream_id: int, headers: Headers, ended: bool) -> None:
        """Sends a status without a message: the form that balancers retry."""
        try:
            self._http2.send_response(stream_id, headers, end_stream=True)
        except ngh2.NGH2Error:
            return
        self._note_end(stream_id, ended)

    def answer_in_http(self, stream_id: int, error: NoGrpcRequest, ended: bool) -> None:
        """Tells a client that does not speak gRPC, in words that it knows."""
        headers = ((b":status", b"%d" % error.status), (b"content-type", b"text/plain"))
        try:
            self._http2.send_response(stream_id, headers)
            self._http2.send_data(stream_id, f"{error}\n".encode(), end_stream=True)
        except ngh2.NGH2Error:
            return
        self._note_end(stream_id, ended)

    def sent(self) -> None:
        """What was queued has been asked for, or a part of it."""
        if self.room:
            for stream_id in [s for s in self.room if self._http2.queued_body_size(s) <= MOST_QUEUED]:
                self._give_room(stream_id)

    def close_half_open(self, *, also_busy: bool = False) -> None:
        """Tells clients that have the end of a call to send no more of it (RFC 9113, 8.1).

        The library does not give back the window of a DATA frame whose stream is reset while half of it is there. So a
        stream on which something came lately is left to the client, which has the end and will stop by itself.
        """
        for stream_id, received in list(self.half_open.items()):
            self.half_open[stream_id] = 0
            if (also_busy or not received) and not self._http2.queued_body_size(stream_id):
                del self.half_open[stream_id]
                with contextlib.suppress(ngh2.NGH2Error):  # the connection is ending
                    self._http2.reset_stream(stream_id, ngh2.ErrorCode.NO_ERROR)
                self._output_soon()

    def closed(self, stream_id: int) -> None:
        """A stream has ended on both sides, as it should or by a reset."""
        self.half_open.pop(stream_id, None)
        if stream_id in self.room:
            self.room.pop(stream_id).cancel()

    def lose(self) -> None:
        """Nothing more can go out."""
        for room in self.room.values():
            room.cancel()
        self.room.clear()
        self.half_open.clear()

    def _give_room(self, stream_id: int) -> None:
        room = self.room.pop(stream_id)
        if not room.done():
            room.set_result(None)

    def _begin(self, call: H2Call) -> None:
        if not call.answering:
            call.answering = True
            self._http2.send_response(call.stream_id, _headers_of(call))

    def _end(self, call: H2Call, trailers: Headers) -> None:
        try:
            self._begin(call)
            self._http2.send_trailers(call.stream_id, trailers)
        except ngh2.NGH2Error:
            return
        self._note_end(call.stream_id, call.ended)

    def _note_end(self, stream_id: int, ended: bool) -> None:
        """The answer is complete; the request may not be."""
        if not ended:
            self.half_open[stream_id] = 1
        self._output_soon()


def _headers_of(call: H2Call) -> Headers:
    headers = RESPONSE[call.head.encoding]
    if call.initial_metadata is NO_METADATA:
        return headers
    return (*headers, *metadata_headers(call.initial_metadata))


def _trailers_of(call: H2Call) -> Headers:
    return OK if call.trailing_metadata is NO_METADATA else (*OK, *metadata_headers(call.trailing_metadata))
