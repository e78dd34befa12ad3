"""A service for tests of transports: it has an RPC of every kind, and does what the request says.

Requests and responses are `google.protobuf.Struct`, so that no messages of its own are needed.
"""

import asyncio
from collections.abc import AsyncIterator

from google.protobuf.struct_pb2 import Struct

from conveyor_server.core import errors
from conveyor_server.core.errors import RequestError
from conveyor_server.wire.rpc import Immediate, ServerStream, TwoWayStream, Unary
from conveyor_server.wire.tokens import Scope

NAME = "test.Echo"
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
ERRORS = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type)}


def message(**fields) -> bytes:
    """A serialised request."""
    struct = Struct()
    struct.update(fields)
    return struct.SerializeToString()


def read(data: bytes) -> dict:
    return dict(Struct.FromString(data))


class EchoService:
    """`Now` is answered in place, `Later` by a coroutine, `Count` by a stream, `Chat` message by message.

    A request may ask for `size` bytes in return, for `wait` seconds before it is answered, for an `error` by the name
    of its class with a `text`, and for how many (`answers`) messages.
    """

    def __init__(self):
        self.rpcs = {
            NAME: {
                "Now": Immediate(self.now, Scope.INFER),
                "Later": Unary(Struct, self.later, None),
                "Count": ServerStream(Struct, self.count, None),
                "Chat": TwoWayStream("Chat", self.chat, None),
            }
        }
        self.cancelled = 0
        self.waiting = 0

    def now(self, data, call):
        metadata = call.metadata
        if INITIAL in metadata:
            call.initial_metadata = {INITIAL: metadata[INITIAL]}
        if TRAILING in metadata:
            call.trailing_metadata = {TRAILING: metadata[TRAILING]}
        request = read(data)
        call.when_cancelled(self._note_cancel)
        if "wait" in request:
            self.waiting += 1
            asyncio.get_running_loop().call_later(request["wait"], self._answer, call, request)
        else:
            self._answer(call, request)

    def _answer(self, call, request):
        try:
            call.answer(_answer(request).SerializeToString())
        except RequestError as error:
            call.fail(error)

    def _note_cancel(self):
        self.cancelled += 1

    async def later(self, request):
        return await self._wait_and_answer(dict(request))

    async def count(self, request):
        fields = dict(request)
        for number in range(int(fields.get("answers", 1))):
            answer = await self._wait_and_answer(fields)
            answer["number"] = number
            yield answer
        if "last" in fields:
            raise ERRORS[fields["last"]]("the last word")

    async def chat(self, requests: AsyncIterator[bytes], context):
        if INITIAL in context.metadata:
            context.initial_metadata = {INITIAL: context.metadata[INITIAL]}
        async for data in requests:
            yield await self._wait_and_answer(read(data))

    async def _wait_and_answer(self, fields):
        if "wait" in fields:
            self.waiting += 1
            try:
                await asyncio.sleep(fields["wait"])
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return _answer(fields)


def _answer(fields) -> Struct:
    if "error" in fields:
        raise ERRORS[fields["error"]](fields.get("text", ""))
    answer = Struct()
    answer.update({"text": fields.get("text", ""), "payload": "x" * int(fields.get("size", 0))})
    return answer
