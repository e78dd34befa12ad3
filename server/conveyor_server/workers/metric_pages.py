"""The metrics of a process on their way to another one, and one page of those of all. Knows families, not their sense.

Counters and histograms are sums, also over workers that have ended: they never go down. Gauges are sums of those that
run, or the least or the greatest value.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

_Key = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a sample, and its labels."""

EXTREMES: Mapping[str, Callable[[Iterable[float]], float]] = {
    "conveyor_model_ready": min,  # so 1 says that the version answers whichever worker is asked
    "conveyor_model_state": max,
    "conveyor_execution_provider": max,
    "conveyor_run_size_rows": max,
    "conveyor_certificate_expiry_timestamp_seconds": min,
    "conveyor_stale_files": max,
    "process_start_time_seconds": min,
    "process_max_fds": min,
}
"""What becomes of the values of a gauge that makes no sense as a sum."""

Page = Mapping[str, Metric]
"""The families of one process at one moment, by their names."""


def page_of(families: Iterable[Metric]) -> Page:
    """From a registry."""
    return {family.name: family for family in families}


class Sums:
    """One page of many."""

    def __init__(self) -> None:
        self._ended: dict[str, tuple[Metric, dict[_Key, float]]] = {}
        """The counters of workers that are no more."""

    def end(self, page: Page) -> None:
        """Keeps the counters of a worker that has ended."""
        for family in page.values():
            if family.type != "gauge":
                _, totals = self._ended.setdefault(family.name, (family, {}))
                for key, value in _keyed(family):
                    totals[key] = totals.get(key, 0.0) + value

    def merge(self, pages: Sequence[Page], serving: Sequence[Page]) -> list[Metric]:
        """All families.

        Args:
            pages: of all processes.
            serving: those of processes that requests go to. A least or greatest value is one of theirs.
        """
        families = {name: family for page in pages for name, family in page.items()}
        families.update((name, family) for name, (family, _) in self._ended.items() if name not in families)
        return [self._merge(family, pages, serving) for family in families.values()]

    def _merge(self, like: Metric, pages: Sequence[Page], serving: Sequence[Page]) -> Metric:
        combine = EXTREMES.get(like.name, sum)
        values: dict[_Key, list[float]] = {}
        if like.type != "gauge" and like.name in self._ended:
            values.update((key, [total]) for key, total in self._ended[like.name][1].items())
        for page in pages if combine is sum else serving:
            if like.name in page:
                for key, value in _keyed(page[like.name]):
                    values.setdefault(key, []).append(value)
        merged = Metric(like.name, like.documentation, like.type)
        merged.samples = [Sample(name, dict(labels), combine(found)) for (name, labels), found in values.items()]
        return merged


def _keyed(family: Metric) -> Iterator[tuple[_Key, float]]:
    for sample in family.samples:
        yield (sample.name, tuple(sample.labels.items())), sample.value
