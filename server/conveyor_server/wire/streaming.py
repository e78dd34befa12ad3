"""Many inferences on one stream: in flight together, answered as they finish. Knows no transport and no model."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import MappingProxyType

from conveyor_server.core.errors import RequestError
from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.wire.call import Call, Metadata

MAX_UNANSWERED = 256
"""Requests of one stream that may wait for their answers; the next is read when one of them has been answered."""

_FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
"""Clients of models with many answers to one request look for the last one."""

_Answers = AsyncGenerator[pb.ModelStreamInferResponse, None]


async def stream_inferences(
    requests: AsyncIterator[bytes], deadline: float, infer: Callable[[bytes, Call], None], caller: str = ""
) -> _Answers:
    """The answers to the requests of one stream, each when it is ready. Closing it gives up what is unanswered.

    Args:
        requests: serialised ModelInferRequests, until the client has no more.
        deadline: of the stream, and so of each request in it; on the event loop's clock.
        infer: takes one request and the call that is to be answered.
        caller: whose token opened the stream.
    """
    stream = _Stream(deadline, infer, caller)
    reading = asyncio.create_task(stream.read(requests))
    try:
        async for answer in stream.answers():
            yield answer
        await reading  # it has ended, and raises here if it failed
    finally:
        reading.cancel()
        stream.give_up()
        await asyncio.gather(reading, return_exceptions=True)  # until then the requests are still being read


class _Stream:
    def __init__(self, deadline: float, infer: Callable[[bytes, Call], None], caller: str) -> None:
        self._deadline = deadline
        self._infer = infer
        self._caller = caller
        self._room = asyncio.Semaphore(MAX_UNANSWERED)
        self._finished: asyncio.Queue[pb.ModelStreamInferResponse | None] = asyncio.Queue()
        self._waiting: set[_StreamedCall] = set()
        self._ended = False

    async def read(self, requests: AsyncIterator[bytes]) -> None:
        try:
            await self._room.acquire()
            async for data in requests:
                call = _StreamedCall(self, self._deadline, self._caller)
                self._waiting.add(call)
                self._infer(data, call)
                await self._room.acquire()
        finally:
            self._ended = True
            self._finished.put_nowait(None)  # the answers may be waiting for one more

    async def answers(self) -> _Answers:
        while self._waiting or not self._ended or not self._finished.empty():
            answer = await self._finished.get()
            if answer is not None:
                yield answer
                self._room.release()  # only now: a client that does not read its answers must not ask for more

    def finish(self, call: "_StreamedCall", answer: pb.ModelStreamInferResponse) -> None:
        if call in self._waiting:
            self._waiting.remove(call)
            self._finished.put_nowait(answer)

    def give_up(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for call in waiting:
            call.cancelled()


class _StreamedCall:
    """One request of a stream as the service sees it."""

    method = "ModelStreamInfer"
    metadata: Metadata = MappingProxyType({})
    """None of its own: the stream's headers are about the stream."""
    initial_metadata = trailing_metadata = metadata

    def __init__(self, stream: _Stream, deadline: float, caller: str) -> None:
        self._stream = stream
        self._on_cancel: Callable[[], None] | None = None
        self.deadline = deadline
        self.caller = caller
        self.request_id = ""

    def answer(self, response: bytes) -> None:
        # Messages that stand one behind the other are one message with the fields of both.
        inference = pb.ModelInferResponse.FromString(response + _FINAL)
        self._stream.finish(self, pb.ModelStreamInferResponse(infer_response=inference))

    def fail(self, error: RequestError) -> None:
        named = pb.ModelInferResponse(id=self.request_id)
        self._stream.finish(self, pb.ModelStreamInferResponse(error_message=str(error), infer_response=named))

    def when_cancelled(self, action: Callable[[], None]) -> None:
        self._on_cancel = action

    def cancelled(self) -> None:
        if self._on_cancel is not None:
            self._on_cancel()
