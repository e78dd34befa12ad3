from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from conveyor_server.metrics import Metrics
from conveyor_server.workers.metric_pages import EXTREMES, Sums, page_of


def page(models, gauge=0.0):
    requests = CounterMetricFamily("conveyor_requests", "", labels=["model", "code"])
    for model, value in models.items():
        requests.add_metric([model, "OK"], value)
    return page_of([requests, GaugeMetricFamily("conveyor_connections", "", gauge)])


def values(families, name):
    return {
        tuple(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


counts = st.dictionaries(st.sampled_from("abc"), st.integers(0, 1000), max_size=3)


@given(st.lists(st.tuples(st.integers(0, 3), counts, st.booleans()), max_size=30))
def test_counters_are_the_sums_of_all_lives_and_never_fall(events):
    """Each event: the worker of that number counts more, and then perhaps ends and is followed by a new one."""
    sums, living, total, before = Sums(), {number: {} for number in range(4)}, {}, {}
    for number, more, ends in events:
        for model, count in more.items():
            living[number][model] = living[number].get(model, 0) + count
            total[model] = total.get(model, 0) + count
        if ends:
            sums.end(page(living[number], gauge=5))
            living[number] = {}
        pages = [page(counted, gauge=2) for counted in living.values()]
        merged = sums.merge(pages, pages)
        found = {model: value for (model, _), value in values(merged, "conveyor_requests_total").items()}
        assert found == {model: total.get(model, 0) for model in found}
        assert set(total) <= set(found)
        assert all(found[model] >= value for model, value in before.items())
        assert values(merged, "conveyor_connections") == {(): 8}, "a gauge is not of those that have ended"
        before = found


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=5), st.lists(st.floats(0, 1e9), max_size=3))
def test_a_least_value_is_one_of_those_that_serve(serving, starting):
    def ready(value):
        return page_of([GaugeMetricFamily("conveyor_model_ready", "", value), GaugeMetricFamily("any", "", value)])

    pages = [ready(value) for value in serving]
    merged = Sums().merge([*pages, *map(ready, starting)], pages)
    assert values(merged, "conveyor_model_ready") == {(): min(serving)}
    assert values(merged, "any") == {(): sum([*serving, *starting])}


def test_each_gauge_of_a_process_has_the_rule_that_makes_sense_of_it():
    families = [family.name for family in Metrics().families((), 0) if family.type == "gauge"]
    sums = [name for name in families if name not in EXTREMES]
    assert sums == [
        "conveyor_in_flight_requests",
        "conveyor_queue_rows",
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
    ]
