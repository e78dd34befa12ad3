import pytest

from conveyor_server.core.batch_queue import LevelPolicy, QueuePolicy
from conveyor_server.core.errors import ModelRejected
from conveyor_server.engine.model_config import parse_config
from conveyor_server.engine.providers import ExecutionProvider
from conveyor_server.engine.repository_files import RepositoryFiles
from conveyor_server.engine.runtime_options import GraphOptimization, RuntimeOptions
from conveyor_server.engine.serving import queue_policy, read_labels, runners, runtime_options

QUEUE = QueuePolicy(max_rows=100, max_bytes=1000, max_delay=0.5)
RUNTIME = RuntimeOptions(threads=3)


def config(text):
    return parse_config(text, "config")


def test_without_a_configuration_the_servers_defaults():
    assert queue_policy(config(""), QUEUE) is QUEUE
    assert runtime_options(config(""), RUNTIME) == RUNTIME
    assert runners(config(""), 2) == 2


def test_the_queue_of_a_configuration():
    policy = queue_policy(
        config("""
        dynamic_batching {
          preferred_batch_size: [8, 4]
          max_queue_delay_microseconds: 1500
          priority_levels: 3
          default_priority_level: 2
          default_queue_policy { default_timeout_microseconds: 2000000 allow_timeout_override: true max_queue_size: 7 }
          priority_queue_policy { key: 3 value { timeout_action: DELAY default_timeout_microseconds: 10 } }
        }"""),
        QUEUE,
    )
    assert policy == QueuePolicy(
        max_rows=100,
        max_bytes=1000,
        max_delay=0.0015,
        preferred_rows=(4, 8),
        levels=3,
        default_level=2,
        default=LevelPolicy(max_requests=7, timeout=2.0, allow_override=True),
        by_level={3: LevelPolicy(timeout=1e-5, delay_on_timeout=True)},
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("preferred_batch_size: 0", "preferred_batch_size: sizes are above 0"),
        ("priority_levels: 5000 default_priority_level: 1", "priority_levels: 5000 are too many"),
        ("priority_levels: 2", "default_priority_level: expected one of 1 to 2"),
        ("priority_levels: 2 default_priority_level: 3", "default_priority_level: expected one of 1 to 2"),
        ("priority_queue_policy { key: 4 value {} }", "priority_queue_policy: 4 is not one of the levels 1 to 1"),
    ],
)
def test_a_queue_that_cannot_be(text, reason):
    with pytest.raises(ModelRejected, match=reason):
        queue_policy(config(f"dynamic_batching {{ {text} }}"), QUEUE)


def test_the_runtime_of_a_configuration():
    options = runtime_options(
        config("""
        instance_group [ { kind: KIND_GPU count: 2 gpus: [1] }, { kind: KIND_AUTO } ]
        optimization { graph { level: -1 } }
        dynamic_batching { preferred_batch_size: [8, 16] }
        parameters { key: "intra_op_thread_count" value { string_value: "4" } }
        parameters { key: "inter_op_thread_count" value { string_value: "2" } }
        parameters { key: "enable_mem_arena" value { string_value: "0" } }
        parameters { key: "gpu_mem_limit" value { string_value: "1000" } }
        parameters { key: "anything else" value { string_value: "x" } }
        """),
        RUNTIME,
    )
    assert options == RuntimeOptions(
        provider=ExecutionProvider.CUDA,
        device=1,
        threads=4,
        inter_threads=2,
        arena=False,
        gpu_memory_bytes=1000,
        graph=GraphOptimization.BASIC,
        run_size=16,
    )


def test_runners_are_the_instances_of_all_groups():
    assert runners(config("instance_group [ { count: 2 }, { kind: KIND_CPU } ]"), 1) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("instance_group [ { kind: KIND_GPU }, { kind: KIND_CPU } ]", "on the CPU or on a GPU, not on both"),
        ("instance_group { gpus: [0, 1] }", "instance_group.gpus: a model runs on one GPU"),
        ("optimization { graph { level: 7 } }", "optimization.graph.level: 7 is unknown"),
        ("parameters { key: 'intra_op_thread_count' value { string_value: 'two' } }", "'two' is not a whole number"),
    ],
)
def test_a_runtime_that_cannot_be(text, reason):
    with pytest.raises(ModelRejected, match=reason):
        runtime_options(config(text), RUNTIME)


def test_labels_are_read_one_a_line(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    wanted = config("output [ { name: 'y' label_filename: 'labels.txt' }, { name: 'z' } ]")
    assert read_labels(wanted, tmp_path, RepositoryFiles(tmp_path)) == {"y": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("name", "reason"), [("nope.txt", "cannot be read"), ("../labels.txt", "is not the name of a file")]
)
def test_a_label_file_that_is_not_there(tmp_path, name, reason):
    with pytest.raises(ModelRejected, match=f"label_filename: '{name}' {reason}"):
        read_labels(config(f"output {{ name: 'y' label_filename: '{name}' }}"), tmp_path, RepositoryFiles(tmp_path))
