"""`conveyor-client` as a person or a script meets it, against a real server."""

import json
import os
import subprocess
import sys

import grpc
import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from support.certificates import issue
from support.grpc_puppets import GrpcPuppet
from support.onnx_models import add_sub, classifier, identity, predict_classifier, save
from support.processes import ServerProcess

IMAGES = np.random.default_rng(0).random((150, 8, 8, 1), np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(classifier(metadata={"conveyor.labels": '["a", "b", "c", "[d]"]'}), root, "digits", 3)
    save(add_sub(), root, "simple")
    save(identity(TensorProto.INT64), root, "numbers")
    save(classifier(), root, "truncated").write_bytes(b"no")
    with ServerProcess(root, "--model-control", "explicit", "--allow-admin", "--load", "*") as process:
        yield process


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Forty pictures in folders named by their label, and one file that is none."""
    root = tmp_path_factory.mktemp("pictures")
    pixels = (IMAGES[:40, :, :, 0] * 255).round().astype(np.uint8)
    for number, label in enumerate(predict_classifier(pixels[..., None] / 255).argmax(axis=1)):
        folder = root / ["a", "b", "c", "[d]"][label]
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels[number]).save(folder / f"{number:02}.png")
    (root / "notes.txt").write_text("no picture by its name, so not looked at")
    return root


def client(server, *arguments, **environment):
    url = server.grpc_url if isinstance(server, ServerProcess) else server
    command = [sys.executable, "-m", "conveyor_server.client.cli", *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "COLUMNS": "200", "CONVEYOR_URL": url, **environment},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def lines(out):
    return [json.loads(line) for line in out.splitlines()]


def test_a_folder_goes_in_batches_and_each_picture_gets_a_line(server, pictures):
    code, out, err = client(
        server, "predict", "digits", pictures, "--json", "--batch-size", 7, "--true-label-from-folder"
    )
    assert (code, err) == (0, "")
    found = lines(out)
    assert len(found) == 40
    assert sorted(one["image"] for one in found) == [one["image"] for one in found]
    assert all(one["label"] == one["true_label"] for one in found)
    for one in found:
        assert one["probability"] == pytest.approx(max(one["outputs"]["probabilities"]))


def test_options_may_stand_anywhere(server, pictures):
    one, two = sorted(pictures.glob("*/*.png"))[:2]
    for order in (
        ["digits", one, two, "--json", "--timeout", "9"],
        ["digits", "--json", "--timeout", "9", one, two],
        ["--json", "digits", one, "--timeout", "9", two],
    ):
        code, out, err = client(server, "predict", *order)
        assert (code, [line["image"] for line in lines(out)]) == (0, [str(one), str(two)]), err


def test_a_folder_as_a_table(server, pictures):
    code, out, _ = client(server, "predict", "digits", pictures, "--batch-size", 7, "--true-label-from-folder")
    assert code == 0
    assert "40 of 40 right" in out
    assert "40 picture(s) in 6 requests to digits version 3" in out
    assert "│ [d] " in out  # no markup


def test_arrays_in_files(server, tmp_path):
    np.save(tmp_path / "many.npy", IMAGES)
    np.save(tmp_path / "one.npy", IMAGES[7])
    code, out, err = client(server, "predict", "digits", tmp_path / "many.npy", tmp_path / "one.npy", "--json")
    assert (code, err) == (0, "")
    found = lines(out)
    expected = predict_classifier(np.concatenate([IMAGES, IMAGES[7:8]]))
    np.testing.assert_allclose([one["outputs"]["probabilities"] for one in found], expected, atol=1e-5)
    assert found[149]["image"].endswith("many.npy[149]")


def test_a_model_that_is_no_classifier_prints_its_outputs_as_json(server, tmp_path):
    np.save(tmp_path / "numbers.npy", np.arange(6).reshape(2, 3))
    code, out, err = client(server, "predict", "numbers", tmp_path / "numbers.npy")
    assert (code, out) == (1, "")
    assert "Model 'numbers' is no classifier" in err
    code, out, _ = client(server, "predict", "numbers", tmp_path / "numbers.npy", "--json")
    assert code == 0
    assert [one["outputs"] for one in lines(out)] == [{"output": [0, 1, 2]}, {"output": [3, 4, 5]}]
    assert "label" not in out


def test_what_cannot_be_read_is_said_and_the_others_are_answered(server, pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("x")
    good = next(pictures.glob("*/*.png"))
    code, out, err = client(server, "predict", "digits", broken, good, tmp_path / "nothing.png", "--json")
    assert code == 1
    assert [one["image"] for one in lines(out)] == [str(good)]
    assert f"'{broken}' is not a picture" in err
    assert "nothing.png' cannot be read" in err


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (["empty"], "The folder '{}/empty' has no pictures in it"),
        (["bytes.npy"], "wants float32, got uint8. Convert the values"),
        (["shape.npy"], "has an array of shape [2, 3, 3, 1], model 'digits' wants [-1, 8, 8, 1]"),
        (["objects.npy"], "objects.npy' cannot be read as an array: "),
        (["text.npy"], "text.npy' cannot be read as an array: "),
        (["nothing.npy"], "nothing.npy' cannot be read as an array: "),
    ],
)
def test_files_that_are_no_input_are_told_by_name(server, tmp_path, files, text):
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "bytes.npy", np.zeros((2, 8, 8, 1), np.uint8))
    np.save(tmp_path / "shape.npy", np.zeros((2, 3, 3, 1), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    code, out, err = client(server, "predict", "digits", *(tmp_path / file for file in files))
    assert (code, out) == (1, "")
    assert text.format(tmp_path) in err


def test_a_reader_that_has_enough_is_no_error(server, tmp_path):
    np.save(tmp_path / "many.npy", np.repeat(IMAGES, 20, axis=0))
    command = f"{sys.executable} -m conveyor_server.client.cli predict digits {tmp_path}/many.npy --json | head -n 1"
    environment = {"PATH": os.environ["PATH"], "CONVEYOR_URL": server.grpc_url}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, env=environment, check=True)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


def test_describe(server):
    code, out, _ = client(server, "describe", "digits")
    assert code == 0
    assert "digits version 3, at most 1024 images a request" in out
    assert "│ input  │ image         │ FP32     │ [any, 8, 8, 1] │" in out
    assert "labels: a, b, c, [d]" in out
    code, out, _ = client(server, "describe", "simple", "--json")
    assert code == 0
    (description,) = lines(out)
    assert [tensor["name"] for tensor in description["inputs"]] == ["INPUT0", "INPUT1"]
    code, _, err = client(server, "describe", "nope")
    assert code == 1
    assert "NOT_FOUND: Request for unknown model: 'nope'" in err
    assert "`conveyor-client status` list what there is" in err


def test_status_as_json(server):
    code, out, _ = client(server, "status", "--json")
    assert code == 0
    (status,) = lines(out)
    assert status["ready"]
    models = {model["name"]: model for model in status["models"]}
    assert models["digits"]["state"] == "READY"
    assert models["digits"]["statistics"]["rows"] >= 0
    assert models["truncated"]["state"] == "UNAVAILABLE"
    assert models["truncated"]["reason"]


def test_models_are_loaded_and_unloaded(server):
    assert client(server, "unload", "numbers")[:2] == (0, "numbers is unloaded.\n")
    assert "UNAVAILABLE" in client(server, "describe", "numbers", "--timeout", "0.5")[2]
    assert client(server, "load", "numbers")[:2] == (0, "numbers is loaded.\n")
    code, _, err = client(server, "load", "nope")
    assert code == 1
    assert "nope" in err


def test_waiting_for_a_server_that_starts(tmp_path):
    save(classifier(), tmp_path, "digits")
    with ServerProcess(tmp_path) as first:
        url, port = first.grpc_url, int(first.grpc_url.rsplit(":")[1])
    command = [sys.executable, "-m", "conveyor_server.client.cli", "status", "--wait", "60", "--url", url]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting,
        ServerProcess(tmp_path, ports=(port, 0)),
    ):
        out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert ": ready" in out


@pytest.mark.parametrize(
    ("arguments", "environment", "text"),
    [
        (["status"], {}, "Connection refused"),
        (["predict", "m", "x.png"], {}, "Start one with: conveyor-server"),
        (["status", "--wait", "0.2"], {}, "Connection refused"),
        (["status"], {"CONVEYOR_URL": "http://localhost:8001"}, "leave out 'http://'"),
        (["status", "--root-certificates", "nowhere.pem"], {}, "`root_certificates` 'nowhere.pem' cannot be read"),
        (["status", "--token-file", "nowhere"], {}, "The token file 'nowhere' cannot be read"),
        (
            ["status", "--url", "models.example.com:1"],
            {"CONVEYOR_CLIENT_TOKEN": "secret"},
            "would see the token. Use TLS",
        ),
    ],
)
def test_why_a_server_cannot_be_asked_is_one_line(arguments, environment, text):
    code, out, err = client("127.0.0.1:1", *arguments, **environment)
    assert (code, out) == (1, "")
    assert text in err
    assert "secret" not in err


@pytest.mark.parametrize(
    "arguments",
    [["predict", "digits"], ["status", "--timeout", "0"], ["predict", "m", "x", "--batch-size", "0"], ["no"]],
)
def test_wrong_usage_has_an_exit_code_of_its_own(arguments):
    assert client("127.0.0.1:1", *arguments)[0] == 2


def test_certificates_and_tokens_come_from_files_and_the_environment(tmp_path):
    authority = issue("servers", authority=True)
    identity = issue("server", authority, also="models.example.com")
    (tmp_path / "authority.pem").write_bytes(authority.pem)
    (tmp_path / "token").write_text("from-a-file\n")
    np.save(tmp_path / "x.npy", np.ones((1, 2), np.float32))
    credentials = grpc.ssl_server_credentials([(identity.key_pem, identity.pem)])
    with GrpcPuppet(credentials=credentials) as puppet:
        arguments = ["predict", "double", tmp_path / "x.npy", "--json"]
        environment = {
            "CONVEYOR_CLIENT_ROOT_CERTIFICATES": str(tmp_path / "authority.pem"),
            "CONVEYOR_CLIENT_SERVER_NAME": "models.example.com",
            "CONVEYOR_CLIENT_TOKEN": "from-the-environment",
        }
        url = puppet.url.replace("127.0.0.1", "localhost")
        code, out, err = client(url, *arguments, **environment)
        assert (code, lines(out)[0]["outputs"]) == (0, {"y": [2.0, 2.0]}), err
        assert client(url, *arguments, "--token-file", tmp_path / "token", **environment)[0] == 0
    assert [seen.metadata["authorization"] for seen in puppet.seen] == [
        "Bearer from-the-environment",
        "Bearer from-a-file",
    ]
