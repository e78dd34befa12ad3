"""A server of several processes: accepts for the workers, keeps them running, speaks for all of them.

Loads no model and serves no call. Imports nothing that does: that is a third of a worker's memory.
"""

import asyncio
import dataclasses
import logging
import socket
from typing import TYPE_CHECKING

from conveyor_server import __version__
from conveyor_server.engine.cpu_budget import cpu_budget
from conveyor_server.exposure import allow_connections, exposure_warning
from conveyor_server.life import Life, say_whether_ready
from conveyor_server.model_source import ModelSource
from conveyor_server.security import Security
from conveyor_server.settings import Settings, Transport
from conveyor_server.wire.listening import listen_at_path, listen_on_network, reserve_on_network
from conveyor_server.workers.accepting import Acceptor
from conveyor_server.workers.channel import Answerer
from conveyor_server.workers.everyone import Everyone
from conveyor_server.workers.pool import Pool
from conveyor_server.workers.sayings import Briefing, Topic
from conveyor_server.workers.worker_process import Surroundings, WorkerProcess

if TYPE_CHECKING:
    from conveyor_server.http_server import HttpServer
    from conveyor_server.workers.overview import Overview

log = logging.getLogger(__name__)


class Supervisor(Life):
    """The process that people start and stop. Create it in a running event loop.

    Args:
        settings: of the whole server, with a transport that is not `auto`.
        workers: how many there are to be, at least two.

    Raises:
        StartError: the settings cannot be met on this machine; the text says what to do.
    """

    def __init__(self, settings: Settings, workers: int) -> None:
        super().__init__(settings.lame_duck_seconds)
        self._security = Security(settings)
        self._source = ModelSource(settings)
        listening: list[socket.socket] = []
        self._reserved: list[socket.socket] = []
        if settings.transport is Transport.GRPCIO:
            self._reserved = reserve_on_network(settings.host, settings.grpc_port)
        else:
            listening = listen_on_network(settings.host, settings.grpc_port)
        port = (self._reserved or listening)[0].getsockname()[1]
        if settings.unix_socket:
            listening.append(listen_at_path(settings.unix_socket))
        self._settings = dataclasses.replace(settings, grpc_port=port)
        self._pool = Pool(workers, self._launch, self._bury, settings.drain_seconds)
        self._acceptor = Acceptor(listening, self._pool.choose)
        self._everyone = Everyone(lambda: self._pool.workers)
        self._may_load = False
        self._leaving = False
        self._verdict = False
        self._http: HttpServer
        self._overview: Overview

    async def start(self) -> None:
        """The workers start; both ports answer from here on, and nothing is ready yet."""
        settings = self._settings
        for warning in (exposure_warning(settings), allow_connections(settings.max_connections)):
            if warning:
                log.warning("%s", warning)
        self._pool.start()
        try:
            await self._start_http()
        except BaseException:
            await self._pool.close()
            raise
        log.info(
            "Conveyor %s, repository %s, %d CPU(s), %d workers: gRPC on %s:%d, HTTP on %s:%d",
            __version__,
            settings.repository,
            cpu_budget(),
            self._pool.count,
            settings.host,
            settings.grpc_port,
            settings.host,
            self._http.port,
        )

    async def _start_http(self) -> None:
        # Imported here: it takes a fifth of a second, in which the workers have begun already.
        from conveyor_server.http_server import HttpServer
        from conveyor_server.workers.overview import Overview

        settings = self._settings
        self._overview = Overview(self._pool, self._security)
        self._http = HttpServer(
            settings.host,
            settings.http_port,
            metrics=self._overview.page,
            ready=lambda: self._verdict,
            security=self._security,
        )
        await self._http.start()

    async def serve(self) -> None:
        """Has the workers load; then the server is ready, and they follow the files that it was given."""
        await asyncio.gather(self._security.watch(), self._serve_models())

    async def _serve_models(self) -> None:
        await self._source.start()
        self._may_load = True
        for worker in self._pool.workers:
            self._introduce(worker)
        while not self._pool.settled:
            news = self._pool.news.listen()
            if self._pool.failure:
                raise self._pool.failure
            await news.wait()
        served = {name for worker in self._pool.current for name in worker.state.served}
        say_whether_ready(sorted(served))
        await self._source.follow(self._everyone.look)

    async def reload(self) -> None:
        """Replaces each worker by a new one, which reads everything anew, in turn."""
        if not self._pool.settled:
            log.warning("Not all workers are ready; there is nothing to reload yet.")
            return
        await self._source.fetch()
        if self._settings.transport is Transport.GRPCIO:  # which cannot hand its clients over without a refusal
            await self._everyone.look()
        else:
            await self._pool.replace_all()

    def say_leaving(self) -> None:
        """Has all workers say that they are not ready, and serve on."""
        self._leaving = True
        self._judge()

    async def drain(self) -> None:
        """Accepts no more; has all workers finish what was accepted, and end."""
        self.say_leaving()
        self._acceptor.close()
        await self._pool.stop()

    async def stop(self) -> None:
        """Closes the ports, and ends workers that are left."""
        self._acceptor.close()
        for reserved in self._reserved:
            reserved.close()
        await self._pool.close()
        await self._http.stop()

    def abandon(self) -> None:
        """Ends the workers at once."""
        self._pool.kill()

    def _launch(self, number: int) -> WorkerProcess:
        answerers: dict[str, Answerer] = {
            Topic.CHANGE: self._everyone.change,
            Topic.STATISTICS: self._everyone.statistics,
            Topic.INDEX: self._everyone.index,
        }
        return WorkerProcess(number, Surroundings(self._brief, answerers, self._hear))

    def _brief(self) -> Briefing:
        share = max(1, cpu_budget() // self._pool.count)
        return Briefing(self._settings, self._pool.count, share, self._source.folder, self._source.boundary)

    def _introduce(self, worker: WorkerProcess) -> None:
        """Tells a worker that can hear what it has to know, once there is something to load."""
        if worker.up and self._may_load and not worker.told_to_load:
            worker.load(self._everyone.changes())

    def _hear(self, worker: WorkerProcess) -> None:
        """A worker has become something else."""
        self._introduce(worker)
        self._judge()
        self._acceptor.resume()
        self._pool.news.notify()

    def _judge(self) -> None:
        """Tells all workers whether the server as a whole is ready."""
        self._verdict = self._pool.ready and not self._leaving
        for worker in self._pool.workers:
            worker.tell_verdict(self._verdict)

    def _bury(self, worker: WorkerProcess) -> None:
        """A worker has ended."""
        self._overview.end(worker)
        self._judge()
