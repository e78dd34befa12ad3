"""What answers requests in one process: models, handlers, a transport, and their metrics. Composes the inner rings.

Knows neither signals nor HTTP nor when a phase of its life is due.
"""

import asyncio
import gc
import logging
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.metrics_core import Metric

from conveyor_server.access_log import AccessLog
from conveyor_server.core.batch_queue import QueuePolicy
from conveyor_server.engine.batcher import Observer
from conveyor_server.engine.repository import Repository
from conveyor_server.engine.runtime_options import RuntimeOptions
from conveyor_server.engine.served_model import ModelLoader
from conveyor_server.engine.serving import ServingDefaults
from conveyor_server.metrics import Metrics
from conveyor_server.observers import RequestObservers, RunObservers, open_tracer
from conveyor_server.place import Place
from conveyor_server.security import Security
from conveyor_server.security_metrics import SecurityMetrics
from conveyor_server.settings import ModelControl, Settings
from conveyor_server.transport_metrics import TransportMetrics
from conveyor_server.transports import open_transport
from conveyor_server.wire.inference import RequestObserver
from conveyor_server.wire.service import InferenceService

log = logging.getLogger(__name__)

_COLLECT_AFTER = 10_000
"""New objects that are still there, after which the garbage collector looks at them; about 0.2 ms of work."""
_CLOSING_SECONDS = 2.0


class InferenceServer:
    """The models of one folder, served. Create it in a running event loop.

    Args:
        settings: how.
        folder: the models.
        boundary: the folder that no file of theirs may be outside of, where that is not `folder`.
        security: who is let in.
        place: this process among those that serve the same port; None when it is the only one.

    Raises:
        StartError: the settings cannot be met on this machine; the text says what to do.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        boundary: Path | None,
        security: Security,
        place: Place | None = None,
    ) -> None:
        self._settings = settings
        self._explicit = settings.model_control is ModelControl.EXPLICIT
        self._metrics = Metrics(
            SecurityMetrics(security.certificates, security.access), TransportMetrics(lambda: self.transport)
        )
        self._tracer = (
            open_tracer(settings.trace_endpoint, place.number if place else None) if settings.trace_endpoint else None
        )
        loader = ModelLoader(_defaults(settings, place.cpus if place else 0), self._observe_runs)
        self.repository = Repository(folder, loader, boundary)
        if settings.model_control is ModelControl.NONE and boundary is None:
            self.repository.require_models()
        self.service = InferenceService(
            self.repository,
            self._observe_requests(),
            name=settings.server_name,
            allow_admin=settings.allow_admin,
            explicit=self._explicit,
            siblings=place.siblings if place else None,
        )
        self.transport = open_transport(self.service, settings, security, place)

    @property
    def served(self) -> list[str]:
        """The names of the models that answer, once for each version."""
        return [state.name for state in self.repository.states if state.served]

    async def load(self) -> None:
        """Loads, tunes and warms the models.

        Raises:
            StartError: one that was named is not there, or the execution provider cannot be used.
        """
        chosen = self._explicit and "*" not in self._settings.load
        await self.repository.load(self._settings.load if chosen else None)
        _settle_memory()

    async def look(self) -> None:
        """Brings what is served in line with the folder; under `explicit`, no model that nobody asked for."""
        await self.repository.poll(newcomers=not self._explicit)

    def metric_families(self) -> Iterable[Metric]:
        """The metrics, as they are now."""
        self._metrics.take_in(self.transport.refused)
        return self._metrics.families(self.repository.states, self.transport.in_progress)

    def metrics_page(self) -> bytes:
        """The same in Prometheus' text format."""
        self._metrics.take_in(self.transport.refused)
        return self._metrics.exposition(self.repository.states, self.transport.in_progress)

    async def hand_over(self) -> None:
        """Sends all clients away, and answers what they ask until they have gone. Only `h2` can without a refusal."""
        await self.transport.stop(grace=self._settings.drain_seconds)

    async def drain(self) -> None:
        """Takes no new work, and finishes what was accepted."""
        self.service.leaving = True
        self.transport.leave()
        try:
            await asyncio.wait_for(self.repository.drain(), self._settings.drain_seconds)
        except TimeoutError:
            log.error("Accepted requests were still running after %g s and are lost.", self._settings.drain_seconds)

    async def stop(self) -> None:
        """Closes the port and the connections, and frees the runners."""
        await self.transport.stop(grace=_CLOSING_SECONDS)
        self.repository.close()
        if self._tracer:
            await asyncio.to_thread(self._tracer.close)

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


def _settle_memory() -> None:
    """What is there now stays: the garbage collector need not look at it again, nor look for more all the time.

    Requests make no cycles (a test counts them), so there is next to nothing for it to find.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])


def _defaults(settings: Settings, cpus: int) -> ServingDefaults:
    """What the settings say of every model."""
    return ServingDefaults(
        runtime=RuntimeOptions(
            provider=settings.execution_provider,
            threads=settings.threads,
            cpus=cpus,
            max_batch_size=settings.max_batch_size,
        ),
        queue=QueuePolicy(
            max_rows=settings.max_queue_rows,
            max_bytes=settings.max_queue_bytes,
            max_delay=settings.max_queue_delay_microseconds / 1e6,
        ),
        runners=settings.runners,
    )
