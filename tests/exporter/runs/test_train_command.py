"""The train command as a user runs it: real processes, real faces, a training that is interrupted and killed."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage
from PIL import Image

from conveyor_exporter import __main__ as commands
from conveyor_exporter.publish import latest
from support.processes import ServerProcess

COMMAND = [sys.executable, "-m", "conveyor_exporter"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
EXAMPLES = pathlib.Path(__file__).parents[3] / "exporter" / "examples"
README = EXAMPLES.parent / "README.md"
TRAIN = ["train", str(EXAMPLES / "faces.toml"), "faces.npz", "--name", "faces", "--checkpoint", "run.safetensors"]


def run(*arguments, cwd):
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)


def write_faces(folder):
    """Run the lines of python that README gives."""
    recipe = re.search(r"python -c '(.*?)'\n", README.read_text(), re.DOTALL)
    result = subprocess.run([sys.executable, "-c", recipe[1]], cwd=folder, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder)
    result = run(*TRAIN, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_readme_has_the_command_that_is_tested():
    assert (
        "conveyor-export train exporter/examples/faces.toml faces.npz --name faces --repository models"
        in README.read_text()
    )


def test_faces_are_told_from_other_pictures(trained):
    folder, result = trained
    path = folder / "models" / "faces" / "1" / "model.onnx"
    stored = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    metrics = json.loads(stored["conveyor.training.metrics"])
    assert metrics["test_accuracy"] >= 0.85
    assert (metrics["train_samples"], metrics["validation_samples"], metrics["test_samples"]) == (120, 40, 40)
    assert stored["conveyor.labels"] == '["other", "face"]'
    assert stored["conveyor.source.format"] == "conveyor"
    assert f"accuracy  {metrics['test_accuracy']:.1%} on the 40 test pictures" in result.stdout
    assert "120 to train on, 40 to validate with, 40 to test with" in result.stdout
    assert result.stderr == ""
    pictures = np.load(pathlib.Path(skimage.__file__).parent / "data" / "lfw_subset.npy").astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (answers,) = session.run(["probability"], {"image": pictures[..., None]})
    assert ((answers[:, 0] > 0.5) == (np.arange(200) < 100)).mean() >= 0.9


def test_the_faces_are_served(trained):
    folder, _ = trained
    with np.load(folder / "faces.npz") as arrays:
        for name, number in (("face", 3), ("other", 150)):
            Image.fromarray((arrays["x"][number] * 255).round().astype(np.uint8)).save(folder / f"{name}.png")
    with ServerProcess(folder / "models") as server:
        command = [sys.executable, "-m", "conveyor_server.client.cli", "predict", "faces", "--url", server.grpc_url]
        command += ["face.png", "other.png"]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60)
    assert re.search(r"face\.png\s*│\s*face ", done.stdout), done.stdout
    assert re.search(r"other\.png\s*│\s*other ", done.stdout), done.stdout


def test_the_card_is_beside_the_model(trained):
    folder, _ = trained
    version = folder / "models" / "faces" / "1"
    text = (version / "README.md").read_text()
    pictures = re.findall(r"!\[.+\]\((.+\.png)\)", text)
    assert sorted(path.name for path in version.iterdir()) == sorted(["README.md", "model.onnx", *pictures])
    assert {"confusion_matrix.png", "learning_curves.png", "filters.png", "activations.png"} <= set(pictures)
    for name in pictures:
        with Image.open(version / name) as picture:
            assert picture.width <= 800
            assert not picture.info.keys() - {"dpi"}  # no date, no program
    assert latest(folder / "models", "faces").sha256 in text
    assert str(folder) not in text
    assert "conveyor-client predict faces picture.png" in text


def stop_at(epoch, how, folder):
    """Run the training until it says that an epoch is done, and send it a signal."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*COMMAND, *TRAIN], cwd=folder, env=ENVIRONMENT, **pipes) as process:
        lines = []
        while not any(f"Epoch {epoch}/" in line for line in lines):
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        process.send_signal(how)
        rest, errors = process.communicate()
    return process.returncode, "".join(lines) + rest, errors


def test_an_interrupted_and_a_killed_training_end_as_one_that_ran_through(trained, tmp_path):
    (tmp_path / "faces.npz").write_bytes((trained[0] / "faces.npz").read_bytes())
    code, output, errors = stop_at(3, signal.SIGINT, tmp_path)
    assert (code, errors) == (130, "interrupted; what was not finished is not published\n")
    assert "the checkpoint run.safetensors is kept; the same command goes on from it" in output
    code, output, errors = stop_at(8, signal.SIGKILL, tmp_path)
    assert (code, errors) == (-signal.SIGKILL, "")
    assert re.search(r"[23] of 40 epochs are done, says the checkpoint", output)
    assert "Epoch 1/" not in output
    assert not (tmp_path / "models").exists()
    result = run(*TRAIN, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"[78] of 40 epochs are done, says the checkpoint", result.stdout)
    assert "kept      run.safetensors, the checkpoint" in result.stdout
    for name in ("model.onnx", "README.md", "learning_curves.png", "filters.png"):
        wanted = (trained[0] / "models" / "faces" / "1" / name).read_bytes()
        assert (tmp_path / "models" / "faces" / "1" / name).read_bytes() == wanted, name


def test_a_checkpoint_of_another_training_is_refused(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(trained[0])
    text = (EXAMPLES / "faces.toml").read_text().replace("filters = 16", "filters = 8").replace("seed = 0", "seed = 1")
    (tmp_path / "other.toml").write_text(text)
    assert commands.run(["train", str(tmp_path / "other.toml"), *TRAIN[2:]]) == 1
    errors = capsys.readouterr().err
    assert "error: the checkpoint run.safetensors belongs to another training:" in errors
    assert (
        "  model.layers[0].filters: 16 in the checkpoint, 8 now\n  training.seed: 0 in the checkpoint, 1 now\n"
        in errors
    )
    x = np.random.default_rng(0).random((200, 25, 25, 1))
    np.savez(tmp_path / "faces.npz", x=x, y=np.repeat([0, 1], 100), labels=["other", "face"])
    assert commands.run([*TRAIN[:2], str(tmp_path / "faces.npz"), *TRAIN[3:]]) == 1
    assert "  data.sha256: " in capsys.readouterr().err
    assert latest(pathlib.Path("models"), "faces").version == 1


SPECIFICATION = """
[model]
input_shape = [6, 6, 3]
layers = [
  {type = "Conv2D", filters = 2, kernel_size = 3, name = "eyes"},
  {type = "Flatten"},
  {type = "Dense", units = 3, activation = "softmax"},
]
[training]
loss = "categorical_crossentropy"
epochs = 1
test_split = 0.4
"""


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a|b", "c<d>", "$e_f$")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(5):
            pixels = np.full((7, 6, 3), 40 * number + index, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    pathlib.Path("spec.toml").write_text(SPECIFICATION)


@pytest.mark.usefixtures("pictures")
def test_a_folder_of_class_folders_trains_and_odd_names_do_no_harm(capsys):
    assert commands.run(["train", "spec.toml", "data", "--repository", "repo"]) == 0
    output = capsys.readouterr().out
    assert "15 pictures of 6x6 pixels, 3 channels, in 3 classes: 9 to train on, 6 to test with" in output
    assert "15 of them were resized to 6x6 pixels" in output
    text = pathlib.Path("repo/spec/1/README.md").read_text()
    assert r"| a\|b | 2 |" in text
    assert r"| c\<d\> | 2 |" in text
    assert "`eyes` slides 2 small filters of 3x3 pixels" in text


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "units = 3",
            "units = 4",
            "data has 3 classes ($e_f$, a|b, c<d>), but the network of spec.toml has 4 outputs.",
        ),
        ("filters", "filtres", "model.layers[0].filtres: unknown key"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_training(old, new, message, capsys):
    pathlib.Path("spec.toml").write_text(SPECIFICATION.replace(old, new))
    assert commands.run(["train", "spec.toml", "data", "--name", "odd"]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "Epoch" not in captured.out
    assert not pathlib.Path("models").exists()


@pytest.mark.usefixtures("pictures")
def test_an_input_range_that_cannot_be_is_refused_before_any_training(capsys):
    assert commands.run(["train", "spec.toml", "data", "--name", "odd", "--input-range", "1", "0"]) == 1
    captured = capsys.readouterr()
    assert "`input_range` must be (smallest, largest)" in captured.err
    assert "Epoch" not in captured.out


@pytest.mark.usefixtures("pictures")
def test_a_name_that_cannot_be_is_refused_before_any_training(capsys):
    assert commands.run(["train", "spec.toml", "data", "--name", "a/b"]) == 1
    captured = capsys.readouterr()
    assert "a model's name is made of" in captured.err
    assert captured.out == ""
