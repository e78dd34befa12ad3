from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.wire.merging import merge_index, sum_statistics
from conveyor_server.wire.siblings import Said

numbers = st.integers(0, 2**40)
durations = st.builds(pb.StatisticDuration, count=numbers, ns=numbers)
one_model = st.builds(
    pb.ModelStatistics,
    name=st.sampled_from("ab"),
    version=st.sampled_from(["1", "2", "10"]),
    last_inference=numbers,
    inference_count=numbers,
    execution_count=numbers,
    inference_stats=st.builds(pb.InferStatistics, success=durations, queue=durations, compute_infer=durations),
    batch_stats=st.lists(
        st.builds(pb.InferBatchStatistics, batch_size=st.integers(1, 4), compute_infer=durations),
        unique_by=lambda batch: batch.batch_size,
        max_size=3,
    ),
)
worker_statistics = st.lists(one_model, unique_by=lambda one: (one.name, one.version), max_size=4)


@given(st.lists(worker_statistics, max_size=4))
def test_statistics_are_what_all_have_done_together(workers):
    answers = [
        Said(number, pb.ModelStatisticsResponse(model_stats=models).SerializeToString())
        for number, models in enumerate(workers)
    ]
    total = sum_statistics(answers).model_stats
    keys = [(one.name, int(one.version)) for one in total]
    assert keys == sorted({(one.name, int(one.version)) for models in workers for one in models})
    for one in total:
        parts = [part for models in workers for part in models if (part.name, part.version) == (one.name, one.version)]
        assert one.last_inference == max(part.last_inference for part in parts)
        for field in ("inference_count", "execution_count"):
            assert getattr(one, field) == sum(getattr(part, field) for part in parts)
        for phase in ("success", "queue", "compute_infer", "fail"):
            whole = getattr(one.inference_stats, phase)
            assert whole.ns == sum(getattr(part.inference_stats, phase).ns for part in parts)
            assert whole.count == sum(getattr(part.inference_stats, phase).count for part in parts)
        sizes = [batch.batch_size for batch in one.batch_stats]
        assert sizes == sorted({batch.batch_size for part in parts for batch in part.batch_stats})
        assert sum(batch.compute_infer.count for batch in one.batch_stats) == sum(
            batch.compute_infer.count for part in parts for batch in part.batch_stats
        )


def index(*entries):
    models = [
        pb.RepositoryIndexResponse.ModelIndex(name=name, version=version, state=state, reason=reason)
        for name, version, state, reason in entries
    ]
    return pb.RepositoryIndexResponse(models=models).SerializeToString()


def rows(answers, ready_only=False):
    return [
        (entry.name, entry.version, entry.state, entry.reason)
        for entry in merge_index(answers, ready_only=ready_only).models
    ]


def test_a_version_is_ready_where_all_say_so():
    ready, broken = ("a", "2", "READY", ""), ("b", "1", "UNAVAILABLE", "no file")
    same = [Said(number, index(ready, broken)) for number in (1, 2)]
    assert rows(same) == [ready, broken]
    assert rows(same, ready_only=True) == [ready]


def test_what_differs_is_said_with_the_worker_that_differs():
    first = Said(1, index(("a", "2", "READY", ""), ("a", "10", "READY", "")))
    second = Said(2, index(("a", "2", "UNAVAILABLE", "no memory")))
    assert rows([first, second]) == [
        ("a", "2", "UNAVAILABLE", "worker 2: no memory"),
        ("a", "10", "LOADING", "worker 2 does not have it yet"),
    ]
    assert rows([first, second], ready_only=True) == []
    assert rows([first]) == [("a", "2", "READY", ""), ("a", "10", "READY", "")]
