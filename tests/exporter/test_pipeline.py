import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from conveyor_exporter import export, pipeline
from conveyor_exporter.errors import ExportFailed, VerificationFailed
from conveyor_exporter.layers import Dense, Flatten
from conveyor_exporter.models import Sequential
from conveyor_exporter.pictures.labelled_data import LabelledData


def head(units, activation, **options):
    return Sequential([Flatten(input_shape=(2, 2, 1)), Dense(units, activation=activation, **options)])


def test_export_verifies_and_publishes(tmp_path, tutorial_network):
    images = np.random.default_rng(0).uniform(size=(7, 28, 28, 1)).astype(np.float32)
    exported = export(
        tutorial_network, tmp_path, name="parity", labels=["even", "odd"], data=LabelledData(images, np.ones(7, int))
    )
    assert exported.verification.passed
    assert exported.published.path == tmp_path / "parity" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(exported.published.path, providers=["CPUExecutionProvider"])
    (answers,) = session.run(["probability"], {"image": images})
    np.testing.assert_allclose(answers, tutorial_network.predict(images), atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["conveyor.labels"] == '["even", "odd"]'


def test_files_are_made_from_the_evidence_and_published_beside_the_model(tmp_path):
    seen = []

    def card(evidence):
        seen.append(evidence)
        return {"README.md": evidence.sha256.encode()}

    exported = export(head(1, "sigmoid"), tmp_path, name="m", beside=card)
    (evidence,) = seen
    assert exported.published.path.with_name("README.md").read_text() == exported.published.sha256
    assert evidence.content == exported.published.path.read_bytes()
    assert evidence.verification is exported.verification
    assert [layer.name for layer in evidence.layers] == ["flatten", "dense"]
    assert evidence.metadata.labels == ("0", "1")


def test_a_card_that_fails_publishes_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        export(head(1, "sigmoid"), tmp_path, name="m", beside=lambda evidence: 1 / 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LabelledData(np.zeros((2, 4)), [0, 1]), r"must be \[samples, \*\(2, 2, 1\)\]"),
        (LabelledData(np.zeros((2, 2, 2, 1)), [0, 2]), "knows 2 classes"),
    ],
)
def test_data_that_do_not_fit_are_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        export(head(1, "sigmoid"), tmp_path, name="m", data=data)


@pytest.mark.parametrize("max_drop", [-0.1, 1.0])
def test_a_drop_is_a_share(tmp_path, max_drop):
    with pytest.raises(ValueError, match=r"0\.01 is one point"):
        export(head(1, "sigmoid"), tmp_path, name="m", max_drop=max_drop)


def test_a_foreign_module_needs_its_input_shape(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1))
    with pytest.raises(ValueError, match="`input_shape` is needed"):
        export(module, tmp_path, name="m", labels=["a", "b", "c"])
    exported = export(module, tmp_path, name="m", labels=["a", "b", "c"], input_shape=(2, 2, 1))
    assert exported.published.version == 1
    assert [value.name for value in onnx.load(exported.published.path).graph.output] == ["probabilities"]


def test_a_file_that_differs_is_not_published(tmp_path, monkeypatch):
    real = pipeline.finish

    def careless(*arguments):
        program = real(*arguments)
        program.graph.node[-2].input.pop()  # Gemm loses its bias
        return program

    monkeypatch.setattr(pipeline, "finish", careless)
    model = head(1, "sigmoid", bias_initializer="ones")
    with pytest.raises(VerificationFailed, match=r"nothing was published[^|]*random +1 +off"):
        export(model, tmp_path, name="m", labels=["no", "yes"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("units", "activation", "message"),
    [(1, None, "no probabilities"), (3, "relu", "no probabilities"), (3, "sigmoid", "do not add up to 1")],
)
def test_answers_that_are_no_probabilities_are_refused(tmp_path, units, activation, message):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        export(head(units, activation), tmp_path, name="m", labels=["a", "b", "c"][: max(2, units)])


def test_answers_without_a_unit_axis_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"answer is \[batch, units\]"):
        export(Sequential([Dense(1, "sigmoid", input_shape=(2, 2))]), tmp_path, name="m", labels=["a", "b"])


def test_broken_weights_are_refused(tmp_path):
    model = head(1, "sigmoid")
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    with pytest.raises(ExportFailed, match="nan"):
        export(model, tmp_path, name="m", labels=["no", "yes"])


def test_the_package_itself_loads_nothing_heavy():
    program = (
        "import sys, conveyor_exporter, conveyor_exporter.__main__\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_onnxruntime_is_loaded_with_its_telemetry_off():
    program = (
        "import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "from conveyor_exporter.onnx_file.runtime import load_onnxruntime\n"
        "load_onnxruntime(); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert result.stdout == "1\n"
