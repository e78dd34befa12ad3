"""What operators see in Prometheus. Implements the observers of the engine and the wire; knows neither's inside.

Counts in plain numbers, and makes Prometheus' families of them when it is asked: a request pays for two additions.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from conveyor_server.core import errors
from conveyor_server.engine.batcher import RunReport
from conveyor_server.engine.model_versions import ModelState
from conveyor_server.wire.inference import Inference
from conveyor_server.wire.status import STATUS_OF, Status

_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_REASONS: dict[type[errors.RequestError], str] = {
    errors.Overloaded: "queue_full",
    errors.TooLate: "deadline",
    errors.WaitExpired: "queue_timeout",
    errors.Draining: "draining",
    errors.ModelNotReady: "not_ready",
}
_HISTOGRAMS = {
    "conveyor_request_duration_seconds": "From the arrival of an inference request to its answer, whatever it was.",
    "conveyor_refusal_duration_seconds": "The same of requests that were refused, which are in the other one as well.",
    "conveyor_queue_duration_seconds": "From the arrival of a request to the start of its run.",
    "conveyor_gather_duration_seconds": "Making the input of a run from its requests.",
    "conveyor_run_duration_seconds": "A run in the runtime.",
    "conveyor_scatter_duration_seconds": "Handing each request of a run its rows.",
    "conveyor_batch_rows": "Rows in a run.",
}


class Metrics(Collector):
    """All metrics of one server, in a registry of their own.

    Args:
        others: more of them, that this module does not know.
    """

    def __init__(self, *others: Collector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in (self, *others):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)  # memory and CPU, where the system tells them
        self._models: dict[str, ModelMetrics] = {}
        self._states: Sequence[ModelState] = ()
        self._in_flight = 0
        self._taken_in: Counter[type[errors.RequestError]] = Counter()

    def finished(self, request: Inference, status: Status, seconds: float) -> None:
        """An inference request ended. Requests for models that were not found count under an empty name."""
        model = self.for_model(spec.name if (spec := request.spec) else "")
        model.codes[status] += 1
        model.request_seconds.observe(seconds)
        if request.error is not None and (reason := _REASONS.get(type(request.error))):
            model.refusals[reason] += 1
            model.refusal_seconds.observe(seconds)

    def for_model(self, model: str) -> "ModelMetrics":
        """The observer of one model's runs; the same for all its versions, so that the series stay few."""
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = ModelMetrics()
        return found

    def take_in(self, refused: Mapping[type[errors.RequestError], int]) -> None:
        """Takes in the requests that a transport has refused so far, by the error. They took microseconds."""
        for error, count in refused.items():
            model = self.for_model("")
            more = count - self._taken_in[error]
            self._taken_in[error] = count
            model.codes[STATUS_OF[error]] += more
            model.refusals[_REASONS[error]] += more
            model.request_seconds.observe(0.0, more)
            model.refusal_seconds.observe(0.0, more)

    def families(self, states: Sequence[ModelState], in_flight: int) -> Iterable[Metric]:
        """Everything, with the state of the models as it is now."""
        self._states, self._in_flight = states, in_flight
        return self._registry.collect()

    def exposition(self, states: Sequence[ModelState], in_flight: int) -> bytes:
        """The same in Prometheus' text format."""
        self._states, self._in_flight = states, in_flight
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All families, for the registry."""
        yield from self._counters()
        for name, text in _HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, text, labels=["model"])
            for model, metrics in self._models.items():
                buckets = metrics.histograms[name]
                histogram.add_metric([model], buckets.cumulative(), buckets.total)
            yield histogram
        yield from self._gauges()

    def _counters(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "conveyor_requests", "Inference requests by how they ended.", labels=["model", "code"]
        )
        refused = CounterMetricFamily(
            "conveyor_refused_requests", "Inference requests refused, by why.", labels=["model", "reason"]
        )
        failed = CounterMetricFamily("conveyor_failed_runs", "Runs that ended in an error.", labels=["model"])
        for model, metrics in self._models.items():
            for code in filter(metrics.codes.__getitem__, Status):
                requests.add_metric([model, code.name], metrics.codes[code])
            for reason in _REASONS.values():  # all of them, so that a rate over one begins at zero
                refused.add_metric([model, reason], metrics.refusals[reason])
            failed.add_metric([model], metrics.failed_runs)
        yield from (requests, refused, failed)

    def _gauges(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "conveyor_in_flight_requests", "Requests of any kind that are not answered yet.", value=self._in_flight
        )
        version = ["model", "version"]
        ready = GaugeMetricFamily("conveyor_model_ready", "1 when the version answers.", labels=version)
        state = GaugeMetricFamily("conveyor_model_state", "1 for the state it is in.", labels=[*version, "state"])
        queue = GaugeMetricFamily("conveyor_queue_rows", "Rows that wait for a runner.", labels=version)
        run_size = GaugeMetricFamily(
            "conveyor_run_size_rows", "Rows of a full run, chosen when the version was loaded.", labels=version
        )
        provider = GaugeMetricFamily(
            "conveyor_execution_provider", "1 for the provider in use.", labels=[*version, "provider"]
        )
        for model in self._states:
            labels = [model.name, str(model.version)]
            ready.add_metric(labels, float(model.served is not None))
            state.add_metric([*labels, model.status.value], 1)
            if model.served:
                queue.add_metric(labels, model.served.batcher.queued_rows)
                run_size.add_metric(labels, model.served.model.run_size)
                provider.add_metric([*labels, model.served.model.provider], 1)
        yield from (ready, state, queue, run_size, provider)


class ModelMetrics:
    """The numbers of one model."""

    def __init__(self) -> None:
        self.codes = [0] * (max(Status) + 1)
        self.refusals: Counter[str] = Counter()
        self.failed_runs = 0
        self.histograms = {name: Buckets(_ROWS if name.endswith("rows") else _SECONDS) for name in _HISTOGRAMS}
        self.request_seconds = self.histograms["conveyor_request_duration_seconds"]
        self.refusal_seconds = self.histograms["conveyor_refusal_duration_seconds"]
        self._queue_seconds = self.histograms["conveyor_queue_duration_seconds"]
        self._gather_seconds = self.histograms["conveyor_gather_duration_seconds"]
        self._run_seconds = self.histograms["conveyor_run_duration_seconds"]
        self._scatter_seconds = self.histograms["conveyor_scatter_duration_seconds"]
        self._batch_rows = self.histograms["conveyor_batch_rows"]

    def ran(self, report: RunReport) -> None:
        """A run ended."""
        self.failed_runs += report.failed
        self._batch_rows.observe(report.batch.rows)
        self._gather_seconds.observe(report.gather_seconds)
        self._run_seconds.observe(report.run_seconds)
        self._scatter_seconds.observe(report.scatter_seconds)
        for (_, first_row, _), waited in zip(report.batch.slices, report.waited, strict=True):
            if first_row == 0:  # a request that is split over runs has waited once
                self._queue_seconds.observe(waited)


class Buckets:
    """A histogram.

    Args:
        bounds: upper bounds of its buckets, rising; another one takes what is above.
    """

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Takes in one value, so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    def cumulative(self) -> list[tuple[str, float]]:
        """How many values lie at or below each bound, as Prometheus wants them."""
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))
