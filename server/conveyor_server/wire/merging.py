"""One answer of those of several processes: sums of statistics, one index. Messages in, a message out."""

from collections.abc import Sequence

from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.wire.siblings import Said

_READY = "READY"
_SUMS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
_PHASES = ("compute_input", "compute_infer", "compute_output")


def sum_statistics(answers: Sequence[Said]) -> pb.ModelStatisticsResponse:
    """What all have done together, for each version that some process serves."""
    sums: dict[tuple[str, str], pb.ModelStatistics] = {}
    batches: dict[tuple[str, str], dict[int, pb.InferBatchStatistics]] = {}
    for answer in answers:
        for one in pb.ModelStatisticsResponse.FromString(answer.message).model_stats:
            key = one.name, one.version
            total = sums.setdefault(key, pb.ModelStatistics(name=one.name, version=one.version))
            total.last_inference = max(total.last_inference, one.last_inference)
            total.inference_count += one.inference_count
            total.execution_count += one.execution_count
            for phase in _SUMS:
                _add(getattr(total.inference_stats, phase), getattr(one.inference_stats, phase))
            by_size = batches.setdefault(key, {})
            for batch in one.batch_stats:
                size = by_size.setdefault(batch.batch_size, pb.InferBatchStatistics(batch_size=batch.batch_size))
                for phase in _PHASES:
                    _add(getattr(size, phase), getattr(batch, phase))
    for key, total in sums.items():
        total.batch_stats.extend(size for _, size in sorted(batches[key].items()))
    return pb.ModelStatisticsResponse(model_stats=(total for _, total in sorted(sums.items(), key=_by_version)))


def merge_index(answers: Sequence[Said], *, ready_only: bool) -> pb.RepositoryIndexResponse:
    """Each version that some process knows: ready where all that answered say so, else what the first other one says.

    Args:
        answers: whole indexes, not of ready versions only.
        ready_only: leaves out what is not ready.
    """
    known: dict[tuple[str, str], dict[int, pb.RepositoryIndexResponse.ModelIndex]] = {}
    for answer in answers:
        for entry in pb.RepositoryIndexResponse.FromString(answer.message).models:
            known.setdefault((entry.name, entry.version), {})[answer.worker] = entry
    merged = pb.RepositoryIndexResponse()
    for key, entries in sorted(known.items(), key=_by_version):
        others = {worker: entry for worker, entry in entries.items() if entry.state != _READY}
        missing = sorted(answer.worker for answer in answers if answer.worker not in entries)
        if not others and not missing:
            merged.models.add().CopyFrom(next(iter(entries.values())))
        elif not ready_only:
            merged.models.add().CopyFrom(_odd_one(key, others, missing, len(answers)))
    return merged


def _odd_one(
    key: tuple[str, str], others: dict[int, pb.RepositoryIndexResponse.ModelIndex], missing: list[int], workers: int
) -> pb.RepositoryIndexResponse.ModelIndex:
    """The entry of a version that is not ready everywhere."""
    if not others:
        return pb.RepositoryIndexResponse.ModelIndex(
            name=key[0], version=key[1], state="LOADING", reason=f"{_at(missing)} does not have it yet"
        )
    made = pb.RepositoryIndexResponse.ModelIndex()
    made.CopyFrom(next(iter(others.values())))
    if len(others) < workers:
        made.reason = f"{_at(sorted(others))}: {made.reason}"
    return made


def _at(workers: Sequence[int]) -> str:
    return f"worker {', '.join(map(str, workers))}"


def _by_version(item: tuple[tuple[str, str], object]) -> tuple[str, int]:
    (name, version), _ = item
    return name, int(version)


def _add(total: pb.StatisticDuration, more: pb.StatisticDuration) -> None:
    total.count += more.count
    total.ns += more.ns
