"""The life of a server, phase by phase: start, serve, lame duck, drain, stop. Composes the rings; owns the signals."""

import asyncio
import gc
import logging
import os
import signal
from pathlib import Path
from typing import Any

from conveyor_server import __version__
from conveyor_server.access_log import AccessLog
from conveyor_server.core.batch_queue import QueuePolicy
from conveyor_server.core.errors import RepositoryUnreachable
from conveyor_server.engine.batcher import Observer
from conveyor_server.engine.cpu_budget import cpu_budget
from conveyor_server.engine.remote_repository import RemoteRepository, is_remote
from conveyor_server.engine.repository import Repository
from conveyor_server.engine.runtime_options import RuntimeOptions
from conveyor_server.engine.served_model import ModelLoader
from conveyor_server.engine.serving import ServingDefaults
from conveyor_server.exposure import allow_connections, exposure_warning
from conveyor_server.http_server import HttpServer
from conveyor_server.metrics import Metrics
from conveyor_server.observers import RequestObservers, RunObservers, open_tracer
from conveyor_server.security_metrics import SecurityMetrics
from conveyor_server.settings import ModelControl, Settings
from conveyor_server.transport_metrics import TransportMetrics
from conveyor_server.transports import open_transport
from conveyor_server.wire.access import Access
from conveyor_server.wire.certificates import Certificates
from conveyor_server.wire.inference import RequestObserver
from conveyor_server.wire.service import InferenceService
from conveyor_server.wire.tls_material import TlsFiles

log = logging.getLogger(__name__)

_COLLECT_AFTER = 10_000
"""New objects that are still there, after which the garbage collector looks at them; about 0.2 ms of work."""


class App:
    """One server process. Create it in a running event loop.

    Raises:
        StartError: the settings cannot be met on this machine; the text says what to do.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._certificates = _certificates(settings)
        self._access = Access(Path(settings.tokens)) if settings.tokens else None
        self._metrics = Metrics(SecurityMetrics(self._certificates, self._access), TransportMetrics(lambda: self._grpc))
        self._remote: RemoteRepository | None = None
        if is_remote(settings.repository):
            self._remote = RemoteRepository(settings.repository, settings.repository_cache.expanduser())
        self._tracer = open_tracer(settings.trace_endpoint) if settings.trace_endpoint else None
        folder = self._remote.folder if self._remote else Path(settings.repository)
        boundary = self._remote.boundary if self._remote else None
        self._repository = Repository(folder, ModelLoader(_defaults(settings), self._observe_runs), boundary)
        if settings.model_control is ModelControl.NONE and not self._remote:
            self._repository.require_models()
        self._service = InferenceService(
            self._repository,
            self._observe_requests(),
            name=settings.server_name,
            allow_admin=settings.allow_admin,
            explicit=settings.model_control is ModelControl.EXPLICIT,
        )
        self._grpc = open_transport(self._service, settings, self._certificates, self._access)
        self._http = HttpServer(
            settings.host,
            settings.http_port,
            metrics=self._page,
            ready=lambda: self._service.ready,
            certificates=self._certificates,
            access=self._access,
        )
        self._stop_signal: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serves until a signal says stop, and returns when everything accepted has been answered."""
        self._watch_signals()
        await self._start()
        watching = [asyncio.create_task(files.watch()) for files in (self._certificates, self._access) if files]
        loading = asyncio.create_task(self._load())
        try:
            either: set[asyncio.Future[Any]] = {loading, self._stop_signal}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()  # a reason not to start at all
            reason = await self._stop_signal
            if reason is signal.SIGTERM:
                await self._lame_duck()
            await self._drain()
        finally:
            for task in (loading, *watching):
                task.cancel()
            await self._stop()

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop_signal.done():
            log.warning("%s again: leaving now, unanswered requests are lost.", number.name)
            logging.shutdown()
            os._exit(128 + number)
        log.info("%s: stopping. A second signal leaves at once.", number.name)
        self._stop_signal.set_result(number)

    async def _start(self) -> None:
        """Both ports answer from here on; nothing is ready yet."""
        for warning in (exposure_warning(self._settings), allow_connections(self._settings.max_connections)):
            if warning:
                log.warning("%s", warning)
        await self._http.start()
        await self._grpc.start()
        log.info(
            "Conveyor %s, repository %s, %d CPU(s): gRPC on %s:%d, HTTP on %s:%d",
            __version__,
            self._settings.repository,
            cpu_budget(),
            self._settings.host,
            self._grpc.port,
            self._settings.host,
            self._http.port,
        )

    async def _load(self) -> None:
        """Loads, tunes and warms the models; then the server is ready, and follows the folder if it shall."""
        settings = self._settings
        if self._remote:
            await self._remote.start()
        explicit = settings.model_control is ModelControl.EXPLICIT and "*" not in settings.load
        await self._repository.load(settings.load if explicit else None)
        _settle_memory()
        served = [state.name for state in self._repository.states if state.served]
        if served:
            log.info("Ready: %s.", ", ".join(served))
        else:
            log.error("Not ready: no model is served; the reasons are above.")
        polled = settings.model_control is ModelControl.POLL
        while polled or (self._remote and settings.model_control is ModelControl.EXPLICIT):
            await asyncio.sleep(settings.poll_seconds)
            await self._fetch()
            if polled:
                await self._repository.poll()

    async def _fetch(self) -> None:
        """Brings the copy of a remote repository up to date; what is served stays when that fails."""
        try:
            if self._remote:
                await self._remote.sync()
        except RepositoryUnreachable as error:
            log.error("%s", error)

    def _page(self) -> bytes:
        """The metrics, as they are now."""
        self._metrics.take_in(self._grpc.refused)
        return self._metrics.exposition(self._repository.states, self._grpc.in_progress)

    def _observe_runs(self, model: str) -> Observer:
        metrics = self._metrics.for_model(model)
        return RunObservers((metrics, self._tracer)) if self._tracer else metrics

    def _observe_requests(self) -> RequestObserver:
        observers: list[RequestObserver] = [self._metrics]
        if self._settings.access_log:
            observers.append(AccessLog())
        if self._tracer:
            observers.append(self._tracer)
        return observers[0] if len(observers) == 1 else RequestObservers(observers)

    async def _lame_duck(self) -> None:
        """Says that it is not ready, and serves on, until balancers have turned away."""
        self._service.leaving = True
        log.info("Not ready any more; serving on for %g s.", self._settings.lame_duck_seconds)
        await asyncio.sleep(self._settings.lame_duck_seconds)

    async def _drain(self) -> None:
        """Takes no new work, and finishes what was accepted."""
        self._service.leaving = True
        self._grpc.leave()
        try:
            await asyncio.wait_for(self._repository.drain(), self._settings.drain_seconds)
        except TimeoutError:
            log.error("Accepted requests were still running after %g s and are lost.", self._settings.drain_seconds)

    async def _stop(self) -> None:
        """Closes the ports and frees the runners."""
        await self._grpc.stop(grace=2.0)
        await self._http.stop()
        self._repository.close()
        if self._tracer:
            await asyncio.to_thread(self._tracer.close)
        log.info("Stopped.")


def _certificates(settings: Settings) -> Certificates | None:
    if not settings.tls_certificate:
        return None
    authority = Path(settings.tls_client_authority) if settings.tls_client_authority else None
    return Certificates(TlsFiles(Path(settings.tls_certificate), Path(settings.tls_key), authority))


def _settle_memory() -> None:
    """What is there now stays: the garbage collector need not look at it again, nor look for more all the time.

    Requests make no cycles (a test counts them), so there is next to nothing for it to find.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])


def _defaults(settings: Settings) -> ServingDefaults:
    """What the settings say of every model."""
    return ServingDefaults(
        runtime=RuntimeOptions(
            provider=settings.execution_provider, threads=settings.threads, max_batch_size=settings.max_batch_size
        ),
        queue=QueuePolicy(
            max_rows=settings.max_queue_rows,
            max_bytes=settings.max_queue_bytes,
            max_delay=settings.max_queue_delay_microseconds / 1e6,
        ),
        runners=settings.runners,
    )
