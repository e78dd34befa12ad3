"""The statistics of the models that one process serves, as the message that clients read."""

from conveyor_server.core.statistics import Duration
from conveyor_server.engine.repository import Repository
from conveyor_server.engine.served_model import ServedModel
from conveyor_server.generated import inference_pb2 as pb


def statistics_of(repository: Repository, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
    """The statistics of one version, of every version of a model, or of all that is served.

    Raises:
        RequestError: the name or version that is asked for is not there, or does not answer.
    """
    if request.name and request.version:
        chosen = [repository.get(request.name, request.version)]
    else:
        served = [state.served for state in repository.states if request.name in ("", state.name)]
        chosen = [model for model in served if model]
        if request.name and not chosen:
            chosen = [repository.get(request.name)]  # raises with the reason
    return pb.ModelStatisticsResponse(model_stats=map(_describe, chosen))


def _describe(served: ServedModel) -> pb.ModelStatistics:
    counted = served.statistics
    return pb.ModelStatistics(
        name=served.spec.name,
        version=str(served.spec.version),
        last_inference=counted.last_inference,
        inference_count=counted.inference_count,
        execution_count=counted.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.compute_input),
            compute_infer=_duration(counted.compute_infer),
            compute_output=_duration(counted.compute_output),
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=rows,
                compute_input=_duration(batch.compute_input),
                compute_infer=_duration(batch.compute_infer),
                compute_output=_duration(batch.compute_output),
            )
            for rows, batch in sorted(counted.batches.items())
        ],
    )


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.nanoseconds)
