"""Calls of grpcio as handlers see them. Knows neither the server nor its life."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import TypeAlias

import grpc.aio

from conveyor_server.core.errors import RequestError
from conveyor_server.wire.access import Access
from conveyor_server.wire.call import Metadata

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Outcome = bytes | RequestError


class GrpcContext:
    """What surrounds a call of grpcio.

    Args:
        context: grpcio's.
        access: who knows the callers; None where they need no token.
    """

    def __init__(self, context: Context, access: Access | None) -> None:
        self.grpc = context
        self.deadline = _deadline(context)
        self.initial_metadata: Metadata = {}
        self.trailing_metadata: Metadata = {}
        self._access = access

    @property
    def metadata(self) -> Metadata:
        """The client's headers."""
        return dict(self.grpc.invocation_metadata() or ())

    @property
    def caller(self) -> str:
        """The name of the token that it came with."""
        if self._access is None:
            return ""
        authorization = self.metadata.get("authorization")
        return self._access.name_of(authorization if isinstance(authorization, str) else None)

    async def say_metadata(self) -> None:
        """Sends the headers and sets the trailers that the handler has, each once."""
        if self.initial_metadata:
            headers, self.initial_metadata = tuple(self.initial_metadata.items()), {}
            await self.grpc.send_initial_metadata(headers)
        if self.trailing_metadata:
            self.grpc.set_trailing_metadata(tuple(self.trailing_metadata.items()))


class GrpcCall(GrpcContext):
    """One request: a slot that resolves a future.

    Args:
        context: grpcio's.
        access: who knows the callers.
        method: the RPC that brought it.
    """

    def __init__(self, context: Context, access: Access | None, method: str) -> None:
        super().__init__(context, access)
        self.method = method
        self.request_id = ""
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._on_cancel: Callable[[], None] | None = None

    def answer(self, response: bytes) -> None:
        """Sends the response."""
        self._settle(response)

    def fail(self, error: RequestError) -> None:
        """Sends the error's code and text."""
        self._settle(error)

    def when_cancelled(self, action: Callable[[], None]) -> None:
        """Has `action` called if the client gives up."""
        self._on_cancel = action

    def cancelled(self) -> None:
        """The client gave up, or its deadline passed; maybe in the very moment in which it was answered."""
        if self._on_cancel is not None:
            self._on_cancel()

    def _settle(self, outcome: Outcome) -> None:
        self._on_cancel = None
        if not self.outcome.done():
            self.outcome.set_result(outcome)


def _deadline(context: Context) -> float:
    """On the event loop's clock, in seconds."""
    remaining = context.time_remaining()
    return inf if remaining is None else asyncio.get_running_loop().time() + remaining
