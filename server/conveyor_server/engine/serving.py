"""From a model's configuration and the server's defaults to how the model is served: queue, runtime, labels.

The counterpart of `model_config.py`, which reads the message; nothing here reads a file but label files.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from conveyor_server.core.batch_queue import LevelPolicy, QueuePolicy
from conveyor_server.core.errors import ModelRejected
from conveyor_server.engine.providers import ExecutionProvider
from conveyor_server.engine.repository_files import RepositoryFiles, is_file_name
from conveyor_server.engine.runtime_options import GraphOptimization, RuntimeOptions
from conveyor_server.generated import model_config_pb2 as pb

_MICROSECONDS = 1e6  # a second
_MAX_LABEL_BYTES = 16 * 2**20
_GROUP_PROVIDERS = {
    pb.ModelInstanceGroup.KIND_AUTO: None,
    pb.ModelInstanceGroup.KIND_MODEL: None,
    pb.ModelInstanceGroup.KIND_CPU: ExecutionProvider.CPU,
    pb.ModelInstanceGroup.KIND_GPU: ExecutionProvider.CUDA,
}
_GRAPH_LEVELS = {-1: GraphOptimization.BASIC, 0: GraphOptimization.ALL, 1: GraphOptimization.EXTENDED}


@dataclass(frozen=True)
class ServingDefaults:
    """What the server's settings say of every model."""

    runtime: RuntimeOptions
    queue: QueuePolicy
    runners: int = 1


def queue_policy(config: pb.ModelConfig, defaults: QueuePolicy) -> QueuePolicy:
    """The model's queue: the server's limits, and what the configuration asks of waiting and order."""
    if not config.HasField("dynamic_batching"):
        return defaults
    batching = config.dynamic_batching
    if any(rows < 1 for rows in batching.preferred_batch_size):
        raise ModelRejected("dynamic_batching.preferred_batch_size: sizes are above 0.")
    levels = batching.priority_levels or 1
    if not 1 <= levels <= 1000:
        raise ModelRejected(f"dynamic_batching.priority_levels: {levels} are too many; at most 1000.")
    if batching.priority_levels and not 1 <= batching.default_priority_level <= levels:
        raise ModelRejected(f"dynamic_batching.default_priority_level: expected one of 1 to {levels}.")
    for level in batching.priority_queue_policy:
        if not 1 <= level <= levels:
            raise ModelRejected(
                f"dynamic_batching.priority_queue_policy: {level} is not one of the levels 1 to {levels}."
            )
    return replace(
        defaults,
        max_delay=batching.max_queue_delay_microseconds / _MICROSECONDS or defaults.max_delay,
        preferred_rows=tuple(sorted(batching.preferred_batch_size)),
        levels=levels,
        default_level=batching.default_priority_level or 1,
        default=_level(batching.default_queue_policy),
        by_level={level: _level(policy) for level, policy in batching.priority_queue_policy.items()},
    )


def _level(policy: pb.ModelQueuePolicy) -> LevelPolicy:
    return LevelPolicy(
        max_requests=policy.max_queue_size,
        timeout=policy.default_timeout_microseconds / _MICROSECONDS,
        allow_override=policy.allow_timeout_override,
        delay_on_timeout=policy.timeout_action == pb.ModelQueuePolicy.DELAY,
    )


def runners(config: pb.ModelConfig, default: int) -> int:
    """Runs of the model at the same time: the instances of all groups."""
    return sum(max(1, group.count) for group in config.instance_group) or default


def runtime_options(config: pb.ModelConfig, defaults: RuntimeOptions) -> RuntimeOptions:
    """How the runtime runs the model.

    Raises:
        ModelRejected: contradictory groups, or a parameter that is no number.
    """
    providers = {_GROUP_PROVIDERS[group.kind] for group in config.instance_group} - {None}
    if len(providers) > 1:
        raise ModelRejected("instance_group: a model runs on the CPU or on a GPU, not on both.")
    devices = {device for group in config.instance_group for device in group.gpus}
    if len(devices) > 1:
        raise ModelRejected("instance_group.gpus: a model runs on one GPU; start a server for each of the others.")
    level = config.optimization.graph.level
    if level not in _GRAPH_LEVELS:
        raise ModelRejected(f"optimization.graph.level: {level} is unknown; expected -1, 0 or 1.")
    preferred = config.dynamic_batching.preferred_batch_size
    return replace(
        defaults,
        provider=next(iter(providers), None) or defaults.provider,
        device=next(iter(devices), defaults.device),
        threads=_number(config, "intra_op_thread_count", defaults.threads),
        inter_threads=_number(config, "inter_op_thread_count", defaults.inter_threads),
        arena=bool(_number(config, "enable_mem_arena", int(defaults.arena))),
        gpu_memory_bytes=_number(config, "gpu_mem_limit", defaults.gpu_memory_bytes),
        graph=_GRAPH_LEVELS[level],
        run_size=max(preferred, default=0) or None,
    )


def _number(config: pb.ModelConfig, name: str, default: int) -> int:
    if name not in config.parameters:
        return default
    text = config.parameters[name].string_value
    if not (text.isascii() and text.isdigit() and len(text) < 15):
        raise ModelRejected(f"parameters.{name}: '{text[:40]}' is not a whole number.")
    return int(text)


def read_labels(config: pb.ModelConfig, folder: Path, files: RepositoryFiles) -> dict[str, list[str]]:
    """The labels of each output that names a file of them, one a line.

    Raises:
        ModelRejected: a file is missing, outside the model's folder or the repository, too large, or not text.
    """
    labels = {}
    for output in config.output:
        if output.label_filename:
            if not is_file_name(output.label_filename):
                raise ModelRejected(f"label_filename: '{output.label_filename}' is not the name of a file.")
            try:
                text = files.read(folder / output.label_filename, _MAX_LABEL_BYTES).decode()
            except (OSError, UnicodeDecodeError) as error:
                raise ModelRejected(f"label_filename: '{output.label_filename}' cannot be read: {error}") from error
            labels[output.name] = text.splitlines()
    return labels
