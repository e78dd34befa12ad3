"""One end of the socket between a supervisor and a worker: frames, and open files beside them, on the event loop.

Knows what a question is, not what is asked.
"""

import asyncio
import itertools
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from conveyor_server.core.errors import RequestError, ServerFailed
from conveyor_server.workers.frames import Frame, FrameBroken, FrameReader, Kind

log = logging.getLogger(__name__)

_READ_AT_ONCE = 2**16
_FILES_AT_ONCE = 16

Listener = Callable[[Any, int | None], None]
"""Hears a notice: its body, and a descriptor that is now its own; None where none came."""
Answerer = Callable[[Any], Awaitable[object]]
"""Answers a question, by its body, or raises a RequestError that becomes the asker's."""


class OtherGone(Exception):
    """The process at the other end has ended, or will not answer any more."""


class Channel:
    """One end. It is open until the other end closes, or `close` is called.

    Args:
        end: one of a pair of Unix stream sockets.
        notices: who hears a notice, by its topic.
        questions: who answers, by topic.
        lost: called once when the other end has gone.
    """

    def __init__(
        self,
        end: socket.socket,
        notices: Mapping[str, Listener],
        questions: Mapping[str, Answerer],
        lost: Callable[[], None],
    ) -> None:
        end.setblocking(False)
        self._socket = end
        self._notices, self._questions, self._lost = notices, questions, lost
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._descriptors: deque[int | None] = deque()
        self._unsent: deque[tuple[memoryview, int | None]] = deque()
        self._sent = asyncio.Event()
        self._sent.set()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._open = True
        self.heard = self._loop.time()
        """When something came last, on the event loop's clock."""
        self._loop.add_reader(end, self._on_readable)

    @property
    def is_clogged(self) -> bool:
        """Whether the other end is behind with reading."""
        return bool(self._unsent)

    def tell(self, topic: str, body: object = None, descriptor: int | None = None) -> None:
        """Says something that wants no answer. A descriptor is handed over: this process' own is closed."""
        self._send(Frame(Kind.NOTICE, topic, body, has_descriptor=descriptor is not None), descriptor)

    async def ask(self, topic: str, body: object = None) -> Any:
        """Asks, and waits for the answer.

        Raises:
            RequestError: what the answerer raised.
            OtherGone: there will be no answer.
        """
        if not self._open:
            raise OtherGone
        number = next(self._numbers)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[number] = answer
        self._send(Frame(Kind.QUESTION, topic, body, number))
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def flush(self) -> None:
        """Returns when all that was said has left this process, or nobody is there to hear it."""
        await self._sent.wait()

    def close(self) -> None:
        """Ends it from this side; what was not sent is lost, and what was asked is not answered."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        _close_all(self._descriptors)
        self._forget_unsent()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(OtherGone())
        for task in self._answering:
            task.cancel()

    def _on_readable(self) -> None:
        try:
            data, descriptors, flags, _ = socket.recv_fds(
                self._socket, _READ_AT_ONCE, _FILES_AT_ONCE, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors, flags = b"", [], 0
        if not data:
            self._lose()
            return
        self.heard = self._loop.time()
        self._descriptors.extend(descriptors)
        if flags & socket.MSG_CTRUNC and not descriptors:
            # The system had no place for the file. The frame that it belongs to must not get another one's.
            self._descriptors.append(None)
        try:
            for frame in self._reader.feed(data):
                if self._open:
                    self._take(frame)
        except FrameBroken:
            log.exception("What came from the other process makes no sense. This is a bug.")
            self._lose()

    def _lose(self) -> None:
        self.close()
        self._lost()

    def _take(self, frame: Frame) -> None:
        descriptor = self._descriptors.popleft() if frame.has_descriptor else None
        match frame.kind:
            case Kind.NOTICE:
                self._notices[frame.topic](frame.body, descriptor)
            case Kind.QUESTION:
                answering = self._loop.create_task(self._answer(frame))
                self._answering.add(answering)
                answering.add_done_callback(self._answering.discard)
            case Kind.ANSWER:
                answer = self._waiting.get(frame.number)
                if answer is None or answer.done():
                    return  # whoever asked has gone
                if isinstance(frame.body, RequestError):
                    answer.set_exception(frame.body)
                else:
                    answer.set_result(frame.body)

    async def _answer(self, question: Frame) -> None:
        answer: object
        try:
            answer = await self._questions[question.topic](question.body)
        except RequestError as error:
            answer = error
        except Exception:
            log.exception("Answering '%s' failed. This is a bug.", question.topic)
            answer = ServerFailed("It could not be done. The server's log has the details.")
        self._send(Frame(Kind.ANSWER, question.topic, answer, question.number))

    def _send(self, frame: Frame, descriptor: int | None = None) -> None:
        if not self._open:
            if descriptor is not None:
                os.close(descriptor)
            return
        self._unsent.append((memoryview(frame.encode()), descriptor))
        if len(self._unsent) == 1:
            self._on_writable()

    def _on_writable(self) -> None:
        """Sends what the socket takes."""
        while self._unsent:
            data, descriptor = self._unsent[0]
            try:
                sent = socket.send_fds(self._socket, [data], [] if descriptor is None else [descriptor])
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # gone; the reader hears of it, after what the other end has said last
                self._forget_unsent()
                break
            if descriptor is not None:
                os.close(descriptor)
            if sent == len(data):
                self._unsent.popleft()
            else:
                self._unsent[0] = data[sent:], None
        if self._unsent:
            self._sent.clear()
            self._loop.add_writer(self._socket, self._on_writable)
        else:
            self._sent.set()
            self._loop.remove_writer(self._socket)

    def _forget_unsent(self) -> None:
        _close_all(descriptor for _, descriptor in self._unsent)
        self._unsent.clear()
        self._sent.set()


def _close_all(descriptors: Iterable[int | None]) -> None:
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor)
