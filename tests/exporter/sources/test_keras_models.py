"""Models that Keras itself has saved: ours gives what Keras' `predict` gives."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton

from conveyor_exporter import activations, load_keras
from conveyor_exporter.onnx_file.export import export_onnx, to_bytes
from conveyor_exporter.onnx_file.metadata import Metadata
from conveyor_exporter.publish import publish
from conveyor_exporter.sources.keras_file import read_keras
from support.processes import ServerProcess

PROGRAM = Path(__file__).parents[2] / "support" / "save_keras_models.py"
NOT_AS_H5 = {"random_brightness"}
LAYERS = """
    conv2d conv2d_same conv2d_dilated_groups depthwise depthwise_strided separable separable_strided max_pooling
    max_pooling_same average_pooling global_average global_max batch_normalization batch_normalization_plain
    batch_normalization_frozen activation relu leaky_relu elu softmax dropout identity rescaling zero_padding reshape
    activity_regularization alpha_dropout gaussian_dropout gaussian_noise spatial_dropout random_brightness
    random_contrast random_erasing random_flip random_rotation random_shear random_translation random_zoom
""".split()  # noqa: SIM905  fifty names read better as a paragraph
STACKS = """
    stack functional nested nested_functional built_by_a_call many mixed_float16 bfloat16 binary_logits logits
    softmax_loss
""".split()  # noqa: SIM905  fifty names read better as a paragraph
ACTIVATIONS = [f"activation_{name}" for name in sorted({*activations.NAMED} - {"sparsemax"})]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    result = subprocess.run([sys.executable, PROGRAM, folder], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


def test_every_saved_model_is_tested(saved):
    assert {path.stem for path in saved.glob("*.npz")} == {*LAYERS, *STACKS, *ACTIVATIONS}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", LAYERS + STACKS + ACTIVATIONS)
def test_the_answers_are_keras(saved, name, suffix):
    path = saved / f"{name}{suffix}"
    if suffix == ".h5" and name in NOT_AS_H5:
        assert not path.exists()
        return
    network = load_keras(path)
    session = onnxruntime.InferenceSession(exported(network), providers=["CPUExecutionProvider"])
    with np.load(saved / f"{name}.npz") as arrays:
        for answers in (network.predict(arrays["x"]), session.run(None, {"image": arrays["x"]})[0]):
            np.testing.assert_allclose(answers, arrays["y"], rtol=0, atol=1e-5)


def exported(network):
    return to_bytes(export_onnx(network, network.input_shape, Metadata.for_units(1, ["no", "yes"])))


def test_a_server_gives_keras_answers(saved, tmp_path):
    """All in one repository: what `export` publishes, but for its look whether the answers are probabilities."""
    for name in LAYERS + STACKS:
        publish(exported(load_keras(saved / f"{name}.keras")), tmp_path, name)
    with ServerProcess(tmp_path) as server, triton.InferenceServerClient(server.grpc_url) as client:
        for name in LAYERS + STACKS:
            with np.load(saved / f"{name}.npz") as arrays:
                tensor = triton.InferInput("image", list(arrays["x"].shape), "FP32")
                tensor.set_data_from_numpy(arrays["x"])
                got = client.infer(name, [tensor], client_timeout=30).as_numpy("probability")
                np.testing.assert_allclose(got, arrays["y"], rtol=0, atol=1e-5, err_msg=name)


def test_what_the_file_tells(saved):
    model = read_keras(saved / "stack.keras")
    assert (model.format, model.left_out) == ("keras", ("flip", "drop"))
    assert model.keras_version is not None
    assert model.keras_version.startswith("3.")
    assert model.loss is None
    assert model.network.name == "stack"
    assert [layer.kind for layer in model.network.layers][:3] == ["Rescaling", "Conv2D", "BatchNormalization"]
    logits = read_keras(saved / "binary_logits.h5")
    assert logits.format == "keras-h5"
    assert logits.loss is not None
    assert (logits.loss.name, logits.loss.from_logits) == ("binary_crossentropy", True)


def test_a_read_model_trains(saved):
    model = load_keras(saved / "stack.keras")
    model.compile("adam", "sparse_categorical_crossentropy")
    with np.load(saved / "stack.npz") as arrays:
        before = model.evaluate(arrays["x"], np.arange(5) % 4, verbose=0)
        model.fit(arrays["x"], np.arange(5) % 4, epochs=3, verbose=0)
        assert model.evaluate(arrays["x"], np.arange(5) % 4, verbose=0) != before
