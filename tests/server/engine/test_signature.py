import numpy as np
import pytest
from onnx import TensorProto

from conveyor_server.core.errors import ModelRejected
from conveyor_server.core.model import ModelSpec, TensorSpec
from conveyor_server.engine.effective_config import effective_config
from conveyor_server.engine.model_config import parse_config
from conveyor_server.engine.model_file import read_model_file
from conveyor_server.engine.onnx_model import OnnxModel
from conveyor_server.engine.repository_files import RepositoryFiles
from conveyor_server.engine.runtime_options import RuntimeOptions
from conveyor_server.engine.serving import runtime_options
from conveyor_server.engine.signature import output_labels, served_signature
from conveyor_server.engine.warm_up import warm_up
from support.onnx_models import add_sub, classifier, identity, save


def model(input_shape=(-1, 4), output_shape=(-1, 2), max_batch_size=64):
    return ModelSpec(
        "m", 1, (TensorSpec("x", "FP32", input_shape),), (TensorSpec("y", "FP32", output_shape),), max_batch_size
    )


def tensor(name="x", dims="4", kind="TYPE_FP32", more=""):
    return f"{'input' if name == 'x' else 'output'} {{ name: '{name}' data_type: {kind} dims: [{dims}] {more} }}"


def served(text, spec=None):
    return served_signature(spec or model(), parse_config(text, "config"))


def test_without_a_configuration_what_the_file_says():
    assert served("").spec == model()


@pytest.mark.parametrize(
    ("text", "batch", "shape"),
    [
        ("max_batch_size: 8", 8, (-1, 4)),
        ("max_batch_size: 8 " + tensor(), 8, (-1, 4)),
        (tensor(dims="-1, 4"), 0, (-1, 4)),
        (tensor(dims="3, 4"), 0, (3, 4)),
    ],
)
def test_a_configuration_narrows_it(text, batch, shape):
    signature = served(text)
    assert (signature.spec.max_batch_size, signature.spec.inputs[0].shape) == (batch, shape)
    assert signature.inner_inputs == (None,)


def test_a_reshape_keeps_both_shapes():
    signature = served("max_batch_size: 8 " + tensor(dims="2, 2", more="reshape { shape: [4] }"))
    assert signature.spec.inputs[0].shape == (-1, 2, 2)
    assert signature.inner_inputs == ((-1, 4),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_batch_size: -1", "max_batch_size: -1 is below 0"),
        (tensor("z", "2"), "output: the model has no 'z'; it has y"),
        (tensor(kind="TYPE_INT32"), "input 'x': data_type is TYPE_INT32, the model has TYPE_FP32"),
        (
            "max_batch_size: 8 " + tensor(dims="5"),
            r"input 'x': dims \[5\] behind the batch axis do not fit .* \[-1, 4\]",
        ),
        (tensor(dims="5"), r"input 'x': dims \[5\] do not fit the model's shape \[-1, 4\]"),
        (
            "max_batch_size: 8 " + tensor(dims="3", more="reshape { shape: [4] }"),
            r"reshape from \[3\] to \[4\] changes",
        ),
    ],
)
def test_contradictions_are_refused_by_the_fields_name(text, reason):
    with pytest.raises(ModelRejected, match=reason):
        served(text)


def test_a_model_without_a_batch_axis_cannot_get_one():
    with pytest.raises(ModelRejected, match="max_batch_size: 8 needs a model"):
        served("max_batch_size: 8", model((3, 4), (3, 2), 0))


def load(root, onnx_model, text=""):
    config = parse_config(text, "config")
    options = runtime_options(config, RuntimeOptions())
    file = read_model_file(save(onnx_model, root, "m"), RepositoryFiles(root))
    return OnnxModel(file, "m", 1, options, config), config


def test_every_input_must_be_configured(tmp_path):
    one = "input { name: 'INPUT0' data_type: TYPE_INT32 dims: [16] }"
    with pytest.raises(ModelRejected, match="the configuration lacks INPUT1, which the model needs"):
        load(tmp_path, add_sub(), f"max_batch_size: 4 {one}")


def test_outputs_that_are_not_configured_are_not_served(tmp_path):
    loaded, _ = load(
        tmp_path, add_sub(), "max_batch_size: 4 output { name: 'OUTPUT1' data_type: TYPE_INT32 dims: [16] }"
    )
    a = np.full((1, 16), 5, np.int32)
    (difference,) = loaded.run([a, a - 3])
    assert (difference == 3).all()


def test_a_reshaped_model_runs(tmp_path):
    text = """
    max_batch_size: 4
    input { name: 'input' data_type: TYPE_FP32 dims: [2, 3] reshape { shape: [6] } }
    output { name: 'output' data_type: TYPE_FP32 dims: [3, -1] reshape { shape: [-1] } }
    """
    loaded, _ = load(tmp_path, identity(TensorProto.FLOAT, ["batch", "n"]), text)
    rows = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    (output,) = loaded.run([rows])
    np.testing.assert_array_equal(output, rows.reshape(2, 3, 2))


def test_the_effective_configuration_leaves_nothing_open(tmp_path):
    loaded, config = load(tmp_path, classifier(metadata={"conveyor.input.layout": "NHWC"}))
    full = effective_config(config, loaded, runners=2)
    assert (full.name, full.backend, full.max_batch_size) == ("m", "onnxruntime", 1024)
    assert list(full.input[0].dims) == [8, 8, 1]
    assert list(full.output[0].dims) == [4]
    assert full.instance_group[0].count == 2
    assert full.version_policy.latest.num_versions == 1
    assert list(full.dynamic_batching.preferred_batch_size) == [loaded.run_size]


def test_what_was_configured_stays(tmp_path):
    text = "max_batch_size: 7 dynamic_batching { preferred_batch_size: [5] } version_policy { all {} }"
    loaded, config = load(tmp_path, classifier(), text)
    full = effective_config(config, loaded, runners=1)
    assert loaded.run_size == 5
    assert (full.max_batch_size, list(full.dynamic_batching.preferred_batch_size)) == (7, [5])
    assert full.version_policy.HasField("all")


@pytest.mark.parametrize(
    ("own", "shape", "labels"),
    [
        ('["a", "b"]', (-1, 2), {"y": ["a", "b"]}),
        ('["no", "yes"]', (-1, 1), {"y": ["yes"]}),
        ('["a", "b", "c"]', (-1, 2), {}),
        ("not json", (-1, 2), {}),
        ("{}", (-1, 2), {}),
    ],
)
def test_labels_come_from_the_models_metadata(own, shape, labels):
    spec = ModelSpec("m", 1, (), (TensorSpec("y", "FP32", shape),), 8, {"conveyor.labels": own})
    assert output_labels(spec, {}) == labels
    assert output_labels(spec, {"y": ["file"]}) == {"y": ["file"]}


def warm(root, text, onnx_model=None):
    loaded, config = load(root, onnx_model or classifier(), text)
    runs = []
    real = loaded.run
    loaded.run = lambda inputs: runs.append(inputs[0]) or real(inputs)
    warm_up(loaded, config, root / "m", RepositoryFiles(root))
    return runs


def test_warm_up_requests_are_run(tmp_path):
    (tmp_path / "m" / "warmup").mkdir(parents=True)
    (tmp_path / "m" / "warmup" / "raw").write_bytes(np.full(64, 7, np.float32).tobytes())
    request = (
        "model_warmup {{ name: 'w' batch_size: {} count: {} inputs {{ key: 'image' value {{ dims: [8, 8, 1] {} }} }} }}"
    )
    runs = warm(
        tmp_path,
        request.format(1, 2, "zero_data: true")
        + request.format(3, 1, "random_data: true")
        + request.format(2, 1, "input_data_file: 'raw'"),
    )
    assert [len(run) for run in runs] == [1, 1, 3, 2]
    assert (runs[0] == 0).all()
    assert len(np.unique(runs[2])) > 10
    assert (runs[3] == 7).all()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "input 'image' is missing"),
        ("inputs { key: 'image' value { dims: [9] } }", r"has the shape \[1, 9\], the model takes \[-1, 8, 8, 1\]"),
        ("inputs { key: 'image' value { dims: [8,8,1] input_data_file: 'nope' } }", "'nope' cannot be read"),
        ("inputs { key: 'image' value { dims: [8,8,1] input_data_file: '../x' } }", "'../x' is not the name of a file"),
    ],
)
def test_a_warm_up_request_that_cannot_be_run(tmp_path, text, reason):
    with pytest.raises(ModelRejected, match=f"model_warmup 'w': .*{reason}"):
        warm(tmp_path, f"model_warmup {{ name: 'w' {text} }}")
