"""The whole way: train in torch, export, serve, ask with public clients, and get torch's own answers."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from conveyor_exporter import export
from conveyor_exporter.demo import digits, recipes
from conveyor_server.client import Client
from support.processes import ServerProcess

EXPORT = [sys.executable, "-m", "conveyor_exporter"]


@pytest.fixture(scope="module")
def models():
    """Both demo networks, trained briefly: what they know does not matter here, what they answer does."""
    training, test = digits.split(digits.load_digits(), 0)
    return {name: recipes.train(recipe, training, test, 1, 0).model for name, recipe in recipes.RECIPES.items()}


@pytest.fixture(scope="module")
def server(transport, models, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        export(model, root, name=name, labels=recipes.RECIPES[name].labels)
    with ServerProcess(root) as process:
        yield process


@pytest.fixture(scope="module")
def images():
    return digits.load_digits().images[:200]


OUTPUTS = {"parity": "probability", "digits": "probabilities"}


def image_input(images):
    tensor = triton.InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    return tensor


@pytest.mark.parametrize("batch", [1, 5, 200])
@pytest.mark.parametrize("name", OUTPUTS)
async def test_public_clients_get_torchs_probabilities(server, models, images, name, batch):
    expected = models[name].predict(images[:batch], verbose=0)
    with triton.InferenceServerClient(server.grpc_url) as client:
        got = client.infer(name, [image_input(images[:batch])], client_timeout=30).as_numpy(OUTPUTS[name])
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0)
    async with triton_aio.InferenceServerClient(server.grpc_url) as client:
        result = await client.infer(name, [image_input(images[:batch])], client_timeout=30)
    np.testing.assert_allclose(result.as_numpy(OUTPUTS[name]), expected, atol=1e-5, rtol=0)


def test_the_server_knows_what_the_exporter_wrote(server):
    with Client(server.grpc_url) as client:
        assert client.describe("parity").labels == ["even", "odd"]
        assert client.describe("digits").labels == list("0123456789")
        assert client.describe("digits").input_range == (0.0, 1.0)


def test_pictures_written_by_one_program_are_answered_through_the_other(server, tmp_path):
    subprocess.run([*EXPORT, "samples", tmp_path], check=True, capture_output=True, timeout=60)
    command = [sys.executable, "-m", "conveyor_server.client.cli", "predict", "digits", "--url", server.grpc_url]
    command += ["--true-label-from-folder", *sorted(tmp_path.glob("*/*.png"))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    right = int(done.stdout.split(" of 10 right")[0].split()[-1])
    assert right >= 7, done.stdout
    assert "resized" not in done.stderr


def test_a_published_version_is_complete_before_it_can_be_seen(models, tmp_path):
    """A reader that looks all the time sees whole models only."""
    code = f"""
import pathlib, onnx
root = pathlib.Path({str(tmp_path)!r}) / "parity"
seen = set()
while len(seen) < 3:
    for folder in root.glob("[0-9]*"):
        onnx.checker.check_model(onnx.load_model_from_string((folder / "model.onnx").read_bytes()))
        seen.add(folder.name)
print(sorted(seen))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as reader:
        for _ in range(3):
            export(models["parity"], tmp_path, name="parity", labels=["even", "odd"])
        out, _ = reader.communicate(timeout=60)
    assert reader.returncode == 0
    assert out.strip() == "['1', '2', '3']"
    metadata = {p.key: p.value for p in onnx.load(tmp_path / "parity" / "3" / "model.onnx").metadata_props}
    assert metadata["conveyor.format_version"] == "1"
