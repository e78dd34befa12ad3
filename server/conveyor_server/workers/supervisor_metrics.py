"""The workers as Prometheus sees them."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from conveyor_server.workers.pool import Pool

_PER_WORKER = {
    "conveyor_worker_connections": ("conveyor_connections", "Open connections of a worker; unknown with grpcio."),
    "conveyor_worker_resident_memory_bytes": (
        "process_resident_memory_bytes",
        "Memory of a worker, pages included that it shares with others.",
    ),
}
"""The gauges that are told for each worker as well: their names there, and those of the sums."""


class SupervisorMetrics(Collector):
    """The metrics of a pool of workers.

    Args:
        pool: them.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """All families, for the registry."""
        workers = GaugeMetricFamily("conveyor_workers", "Worker processes by what they are.", labels=["state"])
        for state, count in self._pool.states().items():
            workers.add_metric([state], count)
        yield workers
        yield CounterMetricFamily(
            "conveyor_worker_restarts",
            "Workers that were started because another one had ended by itself.",
            self._pool.restarts,
        )
        for name, (source, text) in _PER_WORKER.items():
            family = GaugeMetricFamily(name, text, labels=["worker"])
            for worker in self._pool.current:
                if source in worker.page:
                    for sample in worker.page[source].samples:
                        family.add_metric([str(worker.number)], sample.value)
            yield family
