import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from conveyor_server.core.errors import ModelRejected, ProviderUnavailable
from conveyor_server.engine import onnx_model
from conveyor_server.engine.model_file import read_model_file
from conveyor_server.engine.onnx_model import OnnxModel
from conveyor_server.engine.providers import CPU, CUDA, ExecutionProvider
from conveyor_server.engine.repository_files import RepositoryFiles
from conveyor_server.engine.runtime_options import RuntimeOptions
from conveyor_server.engine.tuning import RUN_SIZES, RunSize
from support.onnx_models import add_sub, classifier, heavy, identity, predict_classifier, save


def load(tmp_path, model, **options):
    file = read_model_file(save(model, tmp_path, "m"), RepositoryFiles(tmp_path))
    return OnnxModel(file, "m", 1, RuntimeOptions(**options))


def test_signature_of_a_classifier(tmp_path):
    model = load(tmp_path, classifier(metadata={"conveyor.task": "multiclass_classification"}), max_batch_size=99)
    spec = model.spec
    assert (spec.name, spec.version, spec.batched, spec.max_batch_size) == ("m", 1, True, 99)
    assert [(t.name, t.datatype, t.shape) for t in spec.inputs] == [("image", "FP32", (-1, 8, 8, 1))]
    assert [(t.name, t.datatype, t.shape) for t in spec.outputs] == [("probabilities", "FP32", (-1, 4))]
    assert spec.metadata == {"conveyor.task": "multiclass_classification"}
    assert model.provider == CPU


def test_a_run_computes_the_model(tmp_path):
    images = np.random.default_rng(1).random((5, 8, 8, 1), np.float32)
    (outputs,) = load(tmp_path, classifier()).run([images])
    np.testing.assert_allclose(outputs, predict_classifier(images), atol=1e-6)
    assert outputs.dtype == np.float32


def test_a_run_size_is_chosen_and_its_speed_known(tmp_path):
    model = load(tmp_path, classifier(), max_batch_size=20)
    assert model.run_size in {size for size in RUN_SIZES if size <= 20}
    assert model.rows_per_second == pytest.approx(model.run_size / model.seconds_per_run)
    assert model.in_place


def test_what_larger_runs_took_that_were_tried_is_given_back(tmp_path, monkeypatch):
    def try_a_large_one(run, *_):
        run(1)
        run(256)
        return RunSize(1, 0.1)

    monkeypatch.setattr(onnx_model, "tune_run_size", try_a_large_one)
    before = resident_mebibytes()
    model = load(tmp_path, identity(TensorProto.FLOAT, ("n", 2**17)), threads=1)
    assert resident_mebibytes() - before < 64, "256 rows take 128 MiB at the least"
    assert model.run_size == 1


def resident_mebibytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_inputs_go_by_position_and_outputs_come_by_position(tmp_path):
    a, b = np.full((2, 16), 5, np.int32), np.full((2, 16), 3, np.int32)
    added, subtracted = load(tmp_path, add_sub()).run([a, b])
    assert (added == 8).all()
    assert (subtracted == 2).all()


@pytest.mark.parametrize("shape", [(3, 2), ("n", 2)], ids=["fixed", "some axes open"])
def test_a_model_whose_axes_are_not_all_batch_first_is_run_one_request_at_a_time(tmp_path, shape):
    model = identity(TensorProto.FLOAT, shape)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 3
    loaded = load(tmp_path, model)
    assert (loaded.spec.batched, loaded.run_size) == (False, 1)


def test_strings(tmp_path):
    words = np.array([["grüß", "dich"]], np.object_)
    (outputs,) = load(tmp_path, identity(TensorProto.STRING)).run([words])
    assert outputs.tolist() == words.tolist()


def test_a_datatype_that_is_not_served_is_named(tmp_path):
    model = identity(TensorProto.FLOAT)
    model.opset_import[0].version = 19
    for tensor in (model.graph.input[0], model.graph.output[0]):
        tensor.type.tensor_type.elem_type = TensorProto.FLOAT8E4M3FN
    with pytest.raises(ModelRejected, match=r"'input' is of type tensor\(float8e4m3fn\); the types served are BOOL"):
        load(tmp_path, model)


def test_a_model_that_fails_on_made_up_inputs_is_served_untuned(tmp_path):
    model = identity(TensorProto.FLOAT)
    model.graph.node[0].op_type = "Reshape"  # into pairs, and an open axis is made up as one value
    model.graph.node[0].input.append("pairs")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, -1, 2]), "pairs"))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", "m", 2]))
    loaded = load(tmp_path, model)
    assert "fails on made-up inputs" in loaded.notice
    assert (loaded.run_size, loaded.in_place) == (16, False)
    (outputs,) = loaded.run([np.array([[1, 2, 3, 4]], np.float32)])
    assert outputs.tolist() == [[[1, 2], [3, 4]]]


def test_bfloat16_goes_in_and_comes_out_as_its_bits(tmp_path):
    bits = (np.array([[1.5, -2.25]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    model = identity(TensorProto.BFLOAT16)
    model.graph.node.add(op_type="Cast", input=["input"], output=["as_float"]).attribute.add(name="to", i=1, type=2)
    model.graph.output.add().CopyFrom(identity(TensorProto.FLOAT).graph.output[0])
    model.graph.output[1].name = "as_float"
    loaded = load(tmp_path, model)
    assert [tensor.datatype for tensor in loaded.spec.outputs] == ["BF16", "FP32"]
    for rows in (bits, bits[:0], np.repeat(bits, 4, axis=0)[1:3]):
        same, numbers = loaded.run([rows])
        assert (same.dtype, same.tolist()) == (np.uint16, rows.tolist())
        assert numbers.tolist() == [[1.5, -2.25]] * len(rows)


def test_bfloat16_beside_strings_is_refused(tmp_path):
    model = identity(TensorProto.BFLOAT16)
    model.graph.node.add(op_type="Identity", input=["words"], output=["same words"])
    words = identity(TensorProto.STRING)
    model.graph.input.add().CopyFrom(words.graph.input[0])
    model.graph.input[1].name = "words"
    model.graph.output.add().CopyFrom(words.graph.output[0])
    model.graph.output[1].name = "same words"
    with pytest.raises(ModelRejected, match="both BF16 and string tensors"):
        load(tmp_path, model)


@pytest.mark.parametrize(("field", "value"), [("ir_version", 99), ("opset", 999)])
def test_a_model_from_the_future_is_refused_with_the_runtimes_reason(tmp_path, field, value):
    model = classifier()
    if field == "opset":
        model.opset_import[0].version = value
    else:
        model.ir_version = value
    with pytest.raises(
        ModelRejected, match=rf"onnxruntime [\d.]+ refuses it: .*{'IR version' if field == 'ir_version' else 'ai.onnx'}"
    ):
        load(tmp_path, model)


def test_cuda_is_an_error_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model.ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(ProviderUnavailable, match="has only CPUExecutionProvider"):
        load(tmp_path, classifier(), provider=ExecutionProvider.CUDA)


class SessionThatTakes:
    """A session of a runtime that was built for CUDA and finds what the test says at run time."""

    def __init__(self, provider, seen):
        self.provider, self.seen = provider, seen

    def __call__(self, content, options, providers, provider_options):
        self.seen.append((providers, provider_options))
        self.session = self.real(content, options, providers=[CPU])
        return self

    def get_providers(self):
        return [self.provider]

    def __getattr__(self, name):
        return getattr(self.session, name)


@pytest.fixture
def runtime(monkeypatch):
    def fake(provider):
        seen = []
        session = SessionThatTakes(provider, seen)
        session.real = onnx_model.ort.InferenceSession
        monkeypatch.setattr(onnx_model.ort, "InferenceSession", session)
        monkeypatch.setattr(onnx_model.ort, "get_available_providers", lambda: [CUDA, CPU])
        return seen

    return fake


def test_cuda_is_taken_with_its_options_and_never_run_in_the_loops_thread(tmp_path, runtime):
    seen = runtime(CUDA)
    model = load(tmp_path, classifier(), provider=ExecutionProvider.AUTO)
    assert (model.provider, model.notice, model.in_place) == (CUDA, None, False)
    assert seen[0][0] == [CUDA, CPU]
    assert seen[0][1][0]["cudnn_conv_algo_search"] == "HEURISTIC"
    assert len(seen) == 1, "threads of the CPU are no question on a GPU"


def test_cuda_runs_in_a_few_warm_batch_sizes_and_answers_only_what_was_asked(tmp_path, runtime):
    runtime(CUDA)
    model = load(tmp_path, classifier(), run_size=12)
    sizes = []
    real = model._session.run

    def run(names, feed, options):
        sizes.append(len(feed["image"]))
        return real(names, feed, options)

    model._session.run = run
    images = np.random.default_rng(1).random((12, 8, 8, 1), np.float32)
    for rows in (1, 2, 3, 5, 9, 12):
        (outputs,) = model.run([images[:rows]])
        np.testing.assert_allclose(outputs, predict_classifier(images[:rows]), atol=1e-6)
    assert sizes == [1, 2, 4, 8, 12, 12]


def test_auto_falls_back_to_the_cpu_and_says_so(tmp_path, runtime):
    runtime(CPU)
    model = load(tmp_path, classifier(), provider=ExecutionProvider.AUTO)
    assert model.provider == CPU
    assert "CUDAExecutionProvider could not be used" in model.notice


def test_cuda_asked_for_and_not_taken_is_an_error(tmp_path, runtime):
    runtime(CPU)
    with pytest.raises(ProviderUnavailable, match="could not be used"):
        load(tmp_path, classifier(), provider=ExecutionProvider.CUDA)


@pytest.mark.parametrize(("speedup", "threads"), [(1.1, 1), (1.5, 4)])
def test_more_threads_are_kept_only_when_they_pay(tmp_path, monkeypatch, speedup, threads):
    measured = iter([RunSize(4, 0.1), RunSize(4, 0.1 / speedup)])
    monkeypatch.setattr(onnx_model, "tune_run_size", lambda *_: next(measured))
    monkeypatch.setattr(onnx_model, "cpu_budget", lambda: 4)
    model = load(tmp_path, heavy(size=8))
    assert model.threads == threads
    assert model.rows_per_second == pytest.approx(40 * (speedup if threads == 4 else 1))


def test_threads_that_were_set_are_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "cpu_budget", lambda: 4)
    monkeypatch.setattr(onnx_model, "tune_run_size", lambda *_: RunSize(4, 0.1))
    assert load(tmp_path, classifier(), threads=2).threads == 2
