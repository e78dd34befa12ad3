"""The kinds of RPC that a transport carries, and what becomes of a handler's errors. Knows no transport, no handler."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from conveyor_server.core.errors import InvalidRequest, MessageTooLarge, RequestError, ServerFailed
from conveyor_server.wire.call import Call, Context
from conveyor_server.wire.tokens import Scope

log = logging.getLogger(__name__)

_M = TypeVar("_M", bound=Message)

Messages = AsyncGenerator[Message, None]
MAX_SMALL_BYTES = 4 * 2**20
"""Of a request without tensors: a model's configuration is the largest thing in any. It is gRPC's own default, too."""

# Each kind has a `scope`: what a caller needs where the server has tokens; None is open to all. Those whose requests
# may be large tell the bytes of the `largest` that could be answered at present; None where that is not known.


def _unknown() -> None:
    return None


@dataclass(frozen=True)
class Immediate:
    """One request, one response, and no task: the handler returns at once, and the call is answered later."""

    handler: Callable[[bytes, Call], None]
    scope: Scope | None
    largest: Callable[[], int | None] = _unknown


@dataclass(frozen=True)
class Unary:
    """One request, one response."""

    request: type[Message]
    handler: Callable[[Any], Awaitable[Message]]
    scope: Scope | None

    async def call(self, data: bytes) -> Message | RequestError:
        """The outcome of a call."""
        try:
            return await self.handler(_parse_small(self.request, data))
        except RequestError as error:
            return error
        except Exception:
            return _bug(self.request.DESCRIPTOR.full_name)


@dataclass(frozen=True)
class ServerStream:
    """One request, responses until either side has enough."""

    request: type[Message]
    handler: Callable[[Any], Messages]
    scope: Scope | None

    async def open(self, data: bytes) -> Messages:
        """The responses.

        Raises:
            RequestError: the stream ends with this error.
        """
        name = self.request.DESCRIPTOR.full_name
        async with aclosing(_guarded(name, self.handler(_parse_small(self.request, data)))) as messages:
            async for message in messages:
                yield message


@dataclass(frozen=True)
class TwoWayStream:
    """Requests and responses side by side. Each request gets exactly one response, in any order.

    The handler gets the requests as they come, and what surrounds the stream.
    """

    name: str
    handler: Callable[[AsyncIterator[bytes], Context], Messages]
    scope: Scope | None
    largest: Callable[[], int | None] = _unknown

    def open(self, requests: AsyncIterator[bytes], context: Context) -> Messages:
        """The responses. Raises as `ServerStream.open` does."""
        return _guarded(self.name, self.handler(requests, context))


Rpc = Immediate | Unary | ServerStream | TwoWayStream


def largest_request(rpc: Rpc) -> int | None:
    """Bytes of the largest request that could be answered at present; None where that is not known."""
    return rpc.largest() if isinstance(rpc, Immediate | TwoWayStream) else MAX_SMALL_BYTES


class Service(Protocol):
    """What a transport serves."""

    rpcs: Mapping[str, Mapping[str, Rpc]]
    """By the full name of the service, and that of the method."""


def parse(kind: type[_M], data: bytes) -> _M:
    """A message from its bytes.

    Raises:
        InvalidRequest: they are not such a message.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"The request is not a valid {kind.DESCRIPTOR.full_name} message.") from error


def _parse_small(kind: type[_M], data: bytes) -> _M:
    """A message that carries no tensors."""
    if len(data) > MAX_SMALL_BYTES:
        raise MessageTooLarge(
            f"The request has {len(data)} bytes; {kind.DESCRIPTOR.name} has {MAX_SMALL_BYTES} at most."
        )
    return parse(kind, data)


async def _guarded(name: str, messages: Messages) -> Messages:
    async with aclosing(messages):
        try:
            async for message in messages:
                yield message
        except RequestError:
            raise
        except Exception:
            raise _bug(name) from None


def _bug(name: str) -> ServerFailed:
    log.exception("%s failed. This is a bug.", name)
    return ServerFailed("The request could not be processed. The server's log has the details.")
