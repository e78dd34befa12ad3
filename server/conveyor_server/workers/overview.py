"""The one page of metrics of a server with several workers: the supervisor's own, and theirs."""

import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from conveyor_server.security import Security
from conveyor_server.security_metrics import SecurityMetrics
from conveyor_server.workers.metric_pages import Sums, page_of
from conveyor_server.workers.pool import Pool
from conveyor_server.workers.supervisor_metrics import SupervisorMetrics
from conveyor_server.workers.worker_process import WorkerProcess


class Overview:
    """Makes the page.

    Args:
        pool: the workers.
        security: of the supervisor, which lets in those who ask for the page.
    """

    def __init__(self, pool: Pool, security: Security) -> None:
        self._pool = pool
        self._sums = Sums()
        self._own = CollectorRegistry(auto_describe=False)
        self._own.register(SecurityMetrics(security.certificates, security.access))
        self._own.register(SupervisorMetrics(pool))
        ProcessCollector(registry=self._own)

    def end(self, worker: WorkerProcess) -> None:
        """Keeps what a worker has counted that has ended."""
        self._sums.end(worker.page)

    async def page(self) -> bytes:
        """Everything in Prometheus' text format, as it is now."""
        workers = [worker for worker in self._pool.workers if worker.up]
        await asyncio.gather(*(worker.fresh_page() for worker in workers))
        # Who has ended in the meantime is in the sums already.
        alive = [worker for worker in workers if worker in self._pool.workers]
        own = page_of(self._own.collect())
        loaded = [worker.page for worker in alive if worker.state.loaded]
        pages = [worker.page for worker in alive]
        return generate_latest(_Merged(self._sums.merge([*pages, own], [*(loaded or pages), own])))


class _Merged(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
