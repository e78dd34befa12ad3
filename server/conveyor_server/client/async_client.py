"""`AsyncClient`: the calls of a client for asyncio. Drives the procedures, and decides nothing."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from numpy.typing import ArrayLike

from conveyor_server.client.arrays import Outputs
from conveyor_server.client.asking import Pause, Send, Steps
from conveyor_server.client.base import BaseClient
from conveyor_server.client.descriptions import ModelDescription, ModelState, ModelStatistics, ServerDescription
from conveyor_server.client.driving import drive_async
from conveyor_server.client.grpc_channels import AsyncChannels
from conveyor_server.client.infer_request import Parameter
from conveyor_server.client.labels import Prediction
from conveyor_server.client.procedures import Version
from conveyor_server.client.task_gathering import TaskGathering
from conveyor_server.core.model import Array

_R = TypeVar("_R")


class AsyncClient(BaseClient):
    """The same for asyncio: every call of `Client`, with the same arguments, results and errors, as a coroutine.

    Use it in an `async with` block, or await `close`. It belongs to the event loop of its first call. A cancelled call
    is cancelled at the server, too, unless others share its request.
    """

    @overload
    async def predict(
        self,
        model: str,
        images: ArrayLike,
        *,
        version: Version = None,
        timeout: float | None = None,
        request_id: str = "",
        outputs: str | None = None,
    ) -> Array: ...

    @overload
    async def predict(
        self,
        model: str,
        images: ArrayLike,
        *,
        version: Version = None,
        timeout: float | None = None,
        request_id: str = "",
        outputs: list[str] | tuple[str, ...],
    ) -> Outputs: ...

    async def predict(
        self,
        model: str,
        images: ArrayLike,
        *,
        version: Version = None,
        timeout: float | None = None,
        request_id: str = "",
        outputs: str | list[str] | tuple[str, ...] | None = None,
    ) -> Array | Outputs:
        """As `Client.predict`."""
        return await self._run(self._procedures.predict(model, images, version, timeout, request_id, outputs))

    async def classify(
        self,
        model: str,
        images: ArrayLike,
        *,
        version: Version = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> list[Prediction]:
        """As `Client.classify`."""
        return await self._run(self._procedures.classify(model, images, version, timeout, request_id))

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: Version = None,
        timeout: float | None = None,
        request_id: str = "",
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Outputs:
        """As `Client.infer`."""
        return await self._run(self._procedures.infer(model, inputs, version, timeout, request_id, outputs, parameters))

    async def describe(self, model: str, version: Version = None, *, timeout: float | None = None) -> ModelDescription:
        """As `Client.describe`."""
        return await self._run(self._procedures.describe(model, version, timeout))

    async def server(self, *, timeout: float | None = None) -> ServerDescription:
        """As `Client.server`."""
        return await self._run(self._procedures.server(timeout))

    async def live(self, *, timeout: float | None = None) -> bool:
        """As `Client.live`."""
        return await self._run(self._procedures.live(timeout))

    async def ready(self, model: str | None = None, version: Version = None, *, timeout: float | None = None) -> bool:
        """As `Client.ready`."""
        return await self._run(self._procedures.ready(model, version, timeout))

    async def wait_ready(
        self, model: str | None = None, version: Version = None, *, timeout: float | None = None
    ) -> None:
        """As `Client.wait_ready`."""
        await self._run(self._procedures.wait_ready(model, version, timeout, self.connections))

    async def models(self, *, timeout: float | None = None) -> list[ModelState]:
        """As `Client.models`."""
        return await self._run(self._procedures.models(timeout))

    async def statistics(
        self, model: str = "", version: Version = None, *, timeout: float | None = None
    ) -> list[ModelStatistics]:
        """As `Client.statistics`."""
        return await self._run(self._procedures.statistics(model, version, timeout))

    async def load(self, model: str, *, timeout: float | None = None) -> None:
        """As `Client.load`."""
        await self._run(self._procedures.load(model, timeout))

    async def unload(self, model: str, *, timeout: float | None = None) -> None:
        """As `Client.unload`."""
        await self._run(self._procedures.unload(model, timeout))

    async def close(self) -> None:
        """As `Client.close`."""
        self._closed = True
        if self._channels is not None:
            await self._channels.close()
        if self._gatherer is not None:
            await self._gatherer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _open(self) -> None:
        # The connections come with the first call, because they belong to its event loop.
        self._channels: AsyncChannels | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._gatherer: TaskGathering | None = None
        if self._gathering is not None:
            self._gatherer = TaskGathering(
                self._gathering,
                self._gather_delay,
                self._asking,
                lambda request: self._run(self._inference.send_gathered(request)),
            )

    def _connected(self) -> AsyncChannels:
        loop = asyncio.get_running_loop()
        if self._channels is None:
            if self._closed:
                raise RuntimeError("This client is closed.")
            self._channels, self._loop = AsyncChannels(self._settings), loop
        elif self._loop is not loop:
            raise RuntimeError("This client belongs to the event loop of its first call; make one for each loop.")
        return self._channels

    async def _run(self, steps: Steps[_R]) -> _R:
        return await drive_async(steps, self._take)

    async def _take(self, step: Any) -> object:
        if type(step) is Send:
            return await self._connected().send(step)
        if type(step) is Pause:
            await asyncio.sleep(step.seconds)
            return None
        assert self._gatherer is not None, "Only a client that gathers has calls that join. This is a bug."
        return await self._gatherer.join(step)
