"""The command on a trained file that is not ours, from the package digitsclassifier, and on files of several kinds."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc as triton

from conveyor_exporter import load_keras, pipeline
from conveyor_exporter.__main__ import run
from conveyor_exporter.demo import digits
from support import keras_files
from support.keras_files import archive, config, entry, layer
from support.processes import ServerProcess

ROOT = Path(__file__).parents[3]
TRAINED = ROOT / ".tools/digitsclassifier/digitsclassifier/models/digit_classifier_model.keras"
KERAS = """
import sys, keras, numpy
images = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], keras.models.load_model(sys.argv[1]).predict(images, verbose=0))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The trained file exported from the command line; 500 real digits and Keras' answers for them."""
    assert TRAINED.is_file(), "run the tests with: make test"
    folder = tmp_path_factory.mktemp("digits")
    images = digits.load_digits().images[::10]
    np.save(folder / "images.npy", images)
    arguments = [TRAINED, folder / "images.npy", folder / "answers.npy"]
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    subprocess.run([sys.executable, "-c", KERAS, *arguments], check=True, capture_output=True, env=environment)
    labels = ",".join(f"digit {number}" for number in range(10))
    command = [sys.executable, "-m", "conveyor_exporter", "keras", str(TRAINED), "--name", "digits", "--labels", labels]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return result, folder / "models/digits/1/model.onnx", images, np.load(folder / "answers.npy")


def test_the_command_says_what_it_did(exported):
    result, path, _, _ = exported
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].endswith("written by Keras 3.9.2; read as data, nothing in it was run")
    assert " Total params: 225,034 (879.04 KB)" in lines
    assert "  verified  ONNX against the model: " in result.stdout
    assert f"  sha256    {hashlib.sha256(path.read_bytes()).hexdigest()}" in lines


def test_a_trained_model_that_is_not_ours_answers_as_in_keras(exported):
    _, path, images, answers = exported
    assert len(images) == 500
    ours = load_keras(TRAINED).predict(images)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for got in (ours, session.run(["probabilities"], {"image": images})[0]):
        np.testing.assert_allclose(got, answers, rtol=0, atol=1e-5)
        assert (got.argmax(1) == answers.argmax(1)).all()


def test_a_server_gives_keras_answers(exported):
    _, path, images, answers = exported
    tensor = triton.InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    with ServerProcess(path.parents[2]) as server, triton.InferenceServerClient(server.grpc_url) as client:
        got = client.infer("digits", [tensor], client_timeout=30).as_numpy("probabilities")
    np.testing.assert_allclose(got, answers, rtol=0, atol=1e-5)
    assert (got.argmax(1) == answers.argmax(1)).all()


def test_the_file_says_where_it_comes_from(exported):
    stored = {entry.key: entry.value for entry in onnx.load(exported[1]).metadata_props}
    assert json.loads(stored["conveyor.labels"]) == [f"digit {number}" for number in range(10)]
    assert stored["conveyor.source.sha256"] == hashlib.sha256(TRAINED.read_bytes()).hexdigest()
    assert stored["conveyor.source.format"] == "keras"


def test_neither_keras_nor_tensorflow_nor_the_hdf5_library_is_needed():
    absent = ("keras", "tensorflow", "tf_keras", "h5py", "jax")
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({absent}))\n"  # importing one of them fails
        f"from conveyor_exporter import load_keras; print(len(load_keras({str(TRAINED)!r}).layers))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("8\n", "")


def with_loss(name, activation, units, from_logits=True):
    model = config()
    last = layer(model, "last")
    last["config"] |= {"activation": activation, "units": units}
    loss = {"module": "keras.losses", "class_name": name, "config": {"from_logits": from_logits}}
    model["compile_config"] = {"loss": loss}

    def resize(file):
        values = np.linspace(-0.1, 0.1, 24 * units, dtype="<f4").reshape(24, units)
        keras_files.replace_dataset(file, "layers/dense/vars/0", data=values)
        keras_files.replace_dataset(file, "layers/dense/vars/1", data=np.zeros(units, "<f4"))

    return archive(model, keras_files.archive_weights(resize))


def answers(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


@pytest.mark.parametrize(
    ("name", "units", "activation"),
    [
        ("BinaryCrossentropy", 1, lambda x: 1 / (1 + np.exp(-x))),
        ("SparseCategoricalCrossentropy", 3, lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    ],
)
def test_a_model_that_ends_in_logits_gets_its_head(tmp_path, capsys, name, units, activation):
    path = tmp_path / "model.keras"
    path.write_bytes(with_loss(name, "linear", units))
    assert run(["keras", str(path), "--name", "m", "--repository", str(tmp_path)]) == 0
    assert f"  added     {'sigmoid' if units == 1 else 'softmax'} at the end" in capsys.readouterr().out
    images = np.random.default_rng(0).uniform(size=(4, *keras_files.SHAPE)).astype(np.float32)
    logits = load_keras(path).predict(images)
    np.testing.assert_allclose(
        answers(tmp_path / "m/1/model.onnx", images), activation(logits.astype(np.float64)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_loss("BinaryCrossentropy", "linear", 3), "the model has 3 outputs and was trained with binary_cross"),
        (with_loss("CategoricalCrossentropy", None, 1), "the model has 1 outputs"),
        (with_loss("MeanSquaredError", "linear", 3), "End it with activation"),
        (b"nothing", "neither a .keras file nor HDF5"),
    ],
)
def test_a_model_that_is_refused_publishes_nothing(tmp_path, capsys, content, message):
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    assert run(["keras", str(path), "--name", "m", "--repository", str(tmp_path / "models")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_what_training_alone_needs_is_left_out_and_labelled_data_are_verified_on(tmp_path, capsys):
    path, data = tmp_path / "model.keras", tmp_path / "data.npz"
    model = config()
    model["config"]["layers"].insert(1, entry("RandomFlip", "augment", mode="horizontal"))
    path.write_bytes(archive(model))
    generator = np.random.default_rng(0)
    np.savez(data, x=generator.uniform(size=(20, *keras_files.SHAPE)), y=np.arange(20) % 3)
    assert run(["keras", str(path), "--name", "m", "--repository", str(tmp_path), "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert "  left out  augment: of use in training only" in said
    assert "added" not in said  # the model ends in probabilities
    stored = {item.key: item.value for item in onnx.load(tmp_path / "m/1/model.onnx").metadata_props}
    assert "20" in stored["conveyor.verification"]


def test_a_file_that_gives_other_answers_ends_the_command_with_a_table_and_publishes_nothing(
    tmp_path, capsys, monkeypatch
):
    real = pipeline.export_onnx

    def careless(*arguments):
        program = real(*arguments)
        next(node for node in program.graph.node if node.name == "last").input.pop()  # the bias is lost
        return program

    monkeypatch.setattr(pipeline, "export_onnx", careless)
    path = tmp_path / "model.keras"
    path.write_bytes(archive())
    assert run(["keras", str(path), "--repository", str(tmp_path / "models")]) == 1
    error = capsys.readouterr().err
    assert "the float32 ONNX file does not give the model's answers; nothing was published." in error
    assert re.search(r"inputs +batch +optimisations +output +difference +limit", error)
    assert re.search(r"random +7 +on +probabilities +[0-9.e-]+ +1e-05", error)
    assert not (tmp_path / "models").exists()


def test_a_model_is_called_like_its_file_unless_it_is_given_a_name(tmp_path, capsys):
    path = tmp_path / "seven_or_not.keras"
    path.write_bytes(archive())
    assert run(["keras", str(path), "--repository", str(tmp_path)]) == 0
    assert (tmp_path / "seven_or_not/1/model.onnx").is_file()


@pytest.mark.parametrize("arguments", [[], ["x.keras", "--name", "m", "--threshold", "2"]])
def test_wrong_usage(arguments, capsys):
    assert run(["keras", *arguments]) == 2
