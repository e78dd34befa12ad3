import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.errors import ModelRejected
from conveyor_server.engine.model_config import check_config, parse_config, read_config
from conveyor_server.engine.repository_files import RepositoryFiles
from conveyor_server.generated import model_config_pb2 as pb

REAL = """
name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size : 8
input [
  {
    name: "data_0"
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ 3, 224, 224 ]
    reshape { shape: [ 1, 3, 224, 224 ] }
  }
]
output [
  {
    name: "fc6_1"
    data_type: TYPE_FP32
    dims: [ 1000 ]
    label_filename: "densenet_labels.txt"
  }
]
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
instance_group [ { count: 2 kind: KIND_CPU } ]
version_policy: { specific { versions: [1, 3] } }
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
"""


def check(text, name="m"):
    return check_config(parse_config(text, "config"), name)


def test_a_real_file_is_read(tmp_path):
    (tmp_path / "config.pbtxt").write_text(REAL)
    config = read_config(tmp_path, RepositoryFiles(tmp_path))
    assert (config.max_batch_size, list(config.input[0].dims)) == (8, [3, 224, 224])
    assert check_config(config, "densenet_onnx") == []


def test_no_file_is_an_empty_configuration(tmp_path):
    assert read_config(tmp_path, RepositoryFiles(tmp_path)) == pb.ModelConfig()


def test_json_is_read_as_well():
    assert parse_config('{"max_batch_size": 3, "versionPolicy": {"all": {}}}', "x").max_batch_size == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_batch_size: five", "config.pbtxt is not a model configuration: 1:17"),
        ("\nmax_batch_sise: 5", "config.pbtxt is not a model configuration: 2:1"),
        ("{", "config.pbtxt is not a model configuration"),
        (b"\xff\xfe", "config.pbtxt cannot be read"),
        (b" " * (2**20 + 1), "config.pbtxt has .* bytes; the limit is"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, text, reason):
    (tmp_path / "config.pbtxt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelRejected, match=reason):
        read_config(tmp_path, RepositoryFiles(tmp_path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: 'other'", "name: the configuration is of 'other', the model's folder is 'm'"),
        ("backend: 'python'", "backend: 'python' is not served here, only 'onnxruntime'"),
        ("platform: 'tensorrt_plan'", "platform: 'tensorrt_plan' is not served here"),
        ("sequence_batching {}", "sequence_batching: sequences of requests are not kept together"),
        ("ensemble_scheduling {}", "ensemble_scheduling: models are not chained"),
        ("batch_input { kind: BATCH_ITEM_SHAPE }", "batch_input: "),
        ("batch_output {}", "batch_output: "),
        ("model_operations {}", "model_operations: "),
        ("model_repository_agents {}", "model_repository_agents: "),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy.decoupled"),
        ("default_model_filename: '../evil.onnx'", "default_model_filename: '../evil.onnx' is not the name of a file"),
        ("input { name: 'x' is_shape_tensor: true }", "'x': is_shape_tensor is not done here"),
        ("input { name: 'x' optional: true }", "'x': optional is not done here"),
        ("output { name: 'y' is_shape_tensor: true }", "'y': is_shape_tensor is not done here"),
        ("input { dims: 1 }", "an input or output has no name"),
        ("input { name: 'x' reshape { shape: [-1, -1] } }", r"reshape.shape can leave one axis open"),
    ],
)
def test_what_is_not_done_is_refused_by_the_fields_name(text, reason):
    with pytest.raises(ModelRejected, match=reason):
        check(text)


def test_hints_for_other_engines_are_ignored_and_named():
    ignored = check("""
        optimization { cuda { graphs: true } execution_accelerators {} input_pinned_memory { enable: true } }
        instance_group { rate_limiter {} profile: 'x' }
        response_cache { enable: true }
        metric_tags { key: 'a' value: 'b' }
        dynamic_batching { preserve_ordering: true }
    """)
    for field in ("cuda", "execution_accelerators", "input_pinned_memory", "rate_limiter", "profile", "response_cache"):
        assert any(field in text for text in ignored), field
    assert any("preserve_ordering" in text for text in ignored)
    assert any("metric_tags" in text for text in ignored)


@given(st.integers(0, 100), st.lists(st.integers(1, 9), max_size=4), st.text(st.characters(codec="utf-8"), max_size=8))
def test_every_configuration_survives_its_text_form(size, preferred, label):
    config = pb.ModelConfig(max_batch_size=size)
    config.dynamic_batching.preferred_batch_size.extend(preferred)
    config.parameters["key"].string_value = label
    assert parse_config(text_format.MessageToString(config), "x") == config
