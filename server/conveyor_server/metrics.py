"""What operators see in Prometheus. Implements the observers of the engine and the wire; knows neither's inside."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from conveyor_server.engine.batcher import RunReport
from conveyor_server.engine.model_versions import ModelState
from conveyor_server.wire.status import Status

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        # Else each counter and histogram has a second series, which no one reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "conveyor_requests", "Inference requests by how they ended.", ["model", "code"], registry=registry
        )
        self._request_seconds = Histogram(
            "conveyor_request_duration_seconds",
            "From the arrival of an inference request to its answer.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "conveyor_queue_duration_seconds",
            "From the arrival of a request to the start of its run.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._run_seconds = Histogram(
            "conveyor_run_duration_seconds", "Duration of a run.", ["model"], buckets=_SECONDS, registry=registry
        )
        self._batch_rows = Histogram(
            "conveyor_batch_rows", "Rows in a run.", ["model"], buckets=_ROWS, registry=registry
        )
        self._queue_rows = Gauge("conveyor_queue_rows", "Rows that wait for a runner.", ["model"], registry=registry)
        self._ready = Gauge(
            "conveyor_model_ready", "1 when the model answers.", ["model", "version"], registry=registry
        )
        self._run_size = Gauge(
            "conveyor_run_size_rows",
            "Rows of a full run, chosen when the model was loaded.",
            ["model"],
            registry=registry,
        )
        self._provider = Gauge(
            "conveyor_execution_provider", "1 for the provider in use.", ["model", "provider"], registry=registry
        )

    def finished(self, model: str, status: Status, seconds: float) -> None:
        """An inference request ended."""
        self._requests.labels(model, status.name).inc()
        self._request_seconds.labels(model).observe(seconds)

    def for_model(self, model: str) -> "ModelMetrics":
        """The observer of one model's runs."""
        return ModelMetrics(
            self._queue_seconds.labels(model), self._run_seconds.labels(model), self._batch_rows.labels(model)
        )

    def exposition(self, states: Sequence[ModelState]) -> bytes:
        """Everything in Prometheus' text format, with the state of the models as it is now."""
        for state in states:
            self._ready.labels(state.name, str(state.version)).set(state.served is not None)
            if state.served:
                self._queue_rows.labels(state.name).set(state.served.batcher.queued_rows)
                self._run_size.labels(state.name).set(state.served.model.run_size)
                self._provider.labels(state.name, state.served.model.provider).set(1)
        return generate_latest(self._registry)


class ModelMetrics:
    """Takes in the runs of one model."""

    def __init__(self, queue_seconds: Histogram, run_seconds: Histogram, batch_rows: Histogram) -> None:
        self._queue_seconds = queue_seconds
        self._run_seconds = run_seconds
        self._batch_rows = batch_rows

    def ran(self, report: RunReport) -> None:
        """A run ended."""
        self._batch_rows.observe(report.batch.rows)
        self._run_seconds.observe(report.run_seconds)
        for wait in report.waited:
            self._queue_seconds.observe(wait)
