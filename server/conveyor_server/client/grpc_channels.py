"""Connections by grpcio, for threads and for asyncio. The only module of the client that imports grpc."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from conveyor_server.client.asking import Send
from conveyor_server.client.channel_options import Options
from conveyor_server.client.errors import CallError, Cancelled, ServerError, error_of
from conveyor_server.client.security import Certificates, Headers
from conveyor_server.client.spread import Spread

_SERVICE = "/inference.GRPCInferenceService/"
_PUSHBACK = "grpc-retry-pushback-ms"

_Channel = TypeVar("_Channel", grpc.Channel, grpc.aio.Channel)


@dataclass(frozen=True)
class ChannelSettings:
    """How to reach the server."""

    target: str
    options: Options
    certificates: Certificates | None
    headers: Callable[[], Headers]
    """Makes what goes along with each call."""
    connections: int


class _Channels(Generic[_Channel]):
    """Several connections, and which of them takes a call."""

    def __init__(self, settings: ChannelSettings, channels: list[_Channel]) -> None:
        self._server = settings.target
        self._headers = settings.headers
        self._channels: list[_Channel] = channels
        self._spread = Spread(len(channels))
        self._callables: dict[tuple[int, str], Any] = {}
        self._closed = False

    def _take(self, step: Send) -> tuple[int, Any]:
        """The connection for a request, and what sends it there."""
        if self._closed:
            raise RuntimeError("This client is closed.")
        connection = self._spread.take(step.connection)
        method = step.method
        call = self._callables.get((connection, method.name))
        if call is None:
            channel = self._channels[connection]
            call = self._callables[connection, method.name] = channel.unary_unary(_SERVICE + method.name)
        return connection, call

    def _read(self, step: Send, answer: bytes) -> Message:
        # Not by grpcio's deserializers: for asyncio, a failure of theirs is no error, but the answer None.
        try:
            message: Message = step.method.answer.FromString(answer)
        except DecodeError as error:
            details = f"the answer to {step.method.name} is not a message of this protocol"
            raise ServerError("INTERNAL", details, self._server) from error
        return message

    def _error(self, error: grpc.RpcError) -> CallError:
        failed = cast("grpc.Call", error)  # what grpcio raises is the call itself
        return error_of(failed.code().name, failed.details() or "", self._server, _pushback(failed))

    def _cut_off(self) -> CallError:
        return Cancelled("CANCELLED", "the client was closed during the call", self._server)


class Channels(_Channels[grpc.Channel]):
    """Connections for threads."""

    def __init__(self, settings: ChannelSettings) -> None:
        target, options, credentials = settings.target, settings.options, _credentials(settings)
        channels = [
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
            for _ in range(settings.connections)
        ]
        super().__init__(settings, channels)

    def send(self, step: Send) -> Message:
        """The answer to one request.

        Raises:
            CallError: there is none.
            RuntimeError: the client is closed.
        """
        connection, call = self._take(step)
        try:
            answer = call(step.request, timeout=step.timeout, metadata=self._headers())
        except grpc.RpcError as error:
            raise self._error(error) from error
        except ValueError as error:  # grpcio's word for a channel that was closed a moment ago
            if self._closed:
                raise self._cut_off() from error
            raise
        finally:
            self._spread.give_back(connection)
        return self._read(step, answer)

    def close(self) -> None:
        """Ends all calls and connections."""
        self._closed = True
        for channel in self._channels:
            channel.close()


class AsyncChannels(_Channels[grpc.aio.Channel]):
    """Connections for asyncio, bound to the running event loop."""

    def __init__(self, settings: ChannelSettings) -> None:
        target, options, credentials = settings.target, settings.options, _credentials(settings)
        channels = [
            grpc.aio.insecure_channel(target, options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options)
            for _ in range(settings.connections)
        ]
        super().__init__(settings, channels)

    async def send(self, step: Send) -> Message:
        """The answer to one request. Raises as `Channels.send` does."""
        connection, call = self._take(step)
        try:
            answer = await call(step.request, timeout=step.timeout, metadata=self._headers())
        except grpc.RpcError as error:
            raise self._error(error) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise self._cut_off() from error  # it was the call that was cancelled, and not who waits for it
            raise
        finally:
            self._spread.give_back(connection)
        return self._read(step, answer)

    async def close(self) -> None:
        """Ends all calls and connections."""
        self._closed = True
        await asyncio.gather(*(channel.close() for channel in self._channels))


def _credentials(settings: ChannelSettings) -> grpc.ChannelCredentials | None:
    given = settings.certificates
    return None if given is None else grpc.ssl_channel_credentials(given.root, given.key, given.chain)


def _pushback(failed: grpc.Call) -> float | None:
    """Seconds that the server wants the next attempt to wait; infinite for never, and for what is no number."""
    for name, value in failed.trailing_metadata() or ():
        if name == _PUSHBACK:
            try:
                milliseconds = int(value)
            except ValueError:
                return inf
            return milliseconds / 1000 if milliseconds >= 0 else inf
    return None
