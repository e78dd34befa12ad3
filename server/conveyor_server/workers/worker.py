"""A worker: serves what its supervisor hands to it, tells how it is, and ends when it is told to."""

import asyncio
import logging
import os
import socket
from enum import Enum
from typing import Any

from conveyor_server.core.errors import RequestError, StartError
from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.generated import model_config_pb2 as config_pb
from conveyor_server.inference_server import InferenceServer
from conveyor_server.log_setup import set_up_logging
from conveyor_server.place import Place
from conveyor_server.security import Security
from conveyor_server.wire.model_control import index_of
from conveyor_server.wire.statistics import statistics_of
from conveyor_server.workers.channel import Channel
from conveyor_server.workers.metric_pages import Page, page_of
from conveyor_server.workers.sayings import Briefing, Change, State, Topic
from conveyor_server.workers.supervised import SupervisedSiblings

log = logging.getLogger(__name__)


class Farewell(Enum):
    """How to end."""

    STOP = "with the whole server"
    RETIRE = "because another worker has come"


class Worker:
    """One worker process. Create it in a running event loop.

    Args:
        number: its own.
        end: of the socket to the supervisor.
    """

    def __init__(self, number: int, end: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._number = number
        self._briefing: asyncio.Future[Briefing] = loop.create_future()
        self._changes: asyncio.Future[list[Change]] = loop.create_future()
        self._farewell: asyncio.Future[Farewell] = loop.create_future()
        self._in_turn = asyncio.Lock()
        """Loading at the start, and each change after it, in the order in which they were told."""
        self._told = State()
        self._loaded = False
        self._ended = 0
        self._server: InferenceServer
        self._channel = Channel(
            end,
            {
                Topic.BRIEFING: lambda body, _: self._briefing.set_result(body),
                Topic.LOAD: lambda body, _: self._changes.set_result(body),
                Topic.CONNECTION: lambda _, descriptor: self._adopt(descriptor),
                Topic.VERDICT: lambda body, _: self._hear(body),
                Topic.SEND_AWAY: lambda body, _: self._server.transport.send_away(body),
                Topic.RETIRE: lambda body, _: self._end(Farewell.RETIRE),
                Topic.STOP: lambda body, _: self._end(Farewell.STOP),
            },
            {
                Topic.LIFE: self._answer_life,
                Topic.PAGE: self._answer_page,
                Topic.LOOK: self._answer_look,
                Topic.CHANGE: self._answer_change,
                Topic.STATISTICS: self._answer_statistics,
                Topic.INDEX: self._answer_index,
            },
            self._lost,
        )

    async def run(self) -> int:
        """Serves until the supervisor says how to end. Returns the exit code."""
        briefing = await self._briefing
        settings = briefing.settings
        set_up_logging(settings.log_level, settings.log_format, self._number)
        try:
            security = Security(settings)
            place = Place(self._number, briefing.workers, briefing.cpus, SupervisedSiblings(self._channel))
            self._server = InferenceServer(settings, briefing.folder, briefing.boundary, security, place)
            self._server.service.leaving = True  # until there is a verdict
            await self._server.transport.start()
            watching = asyncio.create_task(security.watch())
            await self._serve()
            watching.cancel()
        except StartError as error:
            self._channel.tell(Topic.FAILED, str(error))
            await self._channel.flush()
            return 1
        return 0

    async def _serve(self) -> None:
        """From the first word to the last."""
        self._channel.tell(Topic.UP)
        reporting, loading = asyncio.create_task(self._report()), asyncio.create_task(self._load())
        try:
            either: set[asyncio.Future[Any]] = {loading, self._farewell}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()  # a reason not to start at all
            if await self._farewell is Farewell.RETIRE:
                await self._server.hand_over()
            await self._server.drain()
        finally:
            for task in (loading, reporting):
                task.cancel()
            await self._server.stop()
        self._channel.tell(Topic.PAGE, await self._answer_page())
        await self._channel.flush()

    async def _load(self) -> None:
        changes = await self._changes
        async with self._in_turn:
            await self._server.load()
            for change in changes:
                try:
                    await self._apply(change)
                except RequestError as error:
                    log.warning("What a client asked the workers before this one cannot be done here: %s", error)
            self._loaded = True
        self._tell_state()

    async def _apply(self, change: Change) -> None:
        repository = self._server.repository
        if not change.load:
            await repository.unload_model(change.model)
            return
        config = None if change.config is None else config_pb.ModelConfig.FromString(change.config)
        await repository.load_model(change.model, config)

    async def _report(self) -> None:
        while True:
            changed = self._server.repository.changes.listen()
            self._tell_state()
            await changed.wait()

    def _tell_state(self) -> None:
        state = State(self._loaded, self._loaded and self._server.service.answers, tuple(self._server.served))
        if state != self._told:
            self._told = state
            self._channel.tell(Topic.STATE, state)

    def _adopt(self, descriptor: int | None) -> None:
        if descriptor is None:
            log.error("A connection is lost: the process may open no more files. Raise the limit (ulimit -n).")
            self._count_end()
            return
        accepted = socket.socket(fileno=descriptor)
        accepted.setblocking(False)
        self._server.transport.adopt(accepted, self._count_end)

    def _count_end(self) -> None:
        """Tells of connections that have ended, of all that did in one turn of the event loop together."""
        self._ended += 1
        if self._ended == 1:
            asyncio.get_running_loop().call_soon(self._tell_ended)

    def _tell_ended(self) -> None:
        self._channel.tell(Topic.ENDED, self._ended)
        self._ended = 0

    def _hear(self, ready: bool) -> None:
        self._server.service.leaving = not ready

    def _end(self, farewell: Farewell) -> None:
        if not self._farewell.done():
            self._farewell.set_result(farewell)

    def _lost(self) -> None:
        """There is no supervisor any more, and so no port, and nobody who would start this process again."""
        log.error("The supervisor has gone; so does this worker.")
        logging.shutdown()
        os._exit(1)

    async def _answer_life(self, _: None) -> None:
        return

    async def _answer_page(self, _: None = None) -> Page:
        return page_of(self._server.metric_families())

    async def _answer_look(self, _: None) -> None:
        async with self._in_turn:
            await self._server.look()

    async def _answer_change(self, change: Change) -> None:
        async with self._in_turn:
            await self._apply(change)

    async def _answer_statistics(self, request: bytes) -> bytes:
        wanted = pb.ModelStatisticsRequest.FromString(request)
        return statistics_of(self._server.repository, wanted).SerializeToString()

    async def _answer_index(self, request: bytes) -> bytes:
        return index_of(self._server.repository, pb.RepositoryIndexRequest.FromString(request)).SerializeToString()
