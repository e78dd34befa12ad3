"""The example clients of the Triton project, unmodified, against a real server.

Run by `make test-triton-examples`, which fetches them: they are in no package. docs/triton.md lists what runs.
"""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from support.onnx_models import add_sub, classifier, identity, save
from support.processes import ServerProcess

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".tools" / "triton-examples"
EXAMPLES = FOLDER / "client" / "src" / "python" / "examples"
PYTHON = FOLDER / "environment" / "bin" / "python"
PAGE = ROOT / "docs" / "triton.md"

LABELS = [f"label {number}" for number in range(10)]
IMAGE_MODELS = ("densenet_onnx", "digits")
WAYS = ([], ["--async"], ["--streaming"])
RUNS = [
    ["grpc_client"],
    ["grpc_explicit_byte_content_client"],
    ["grpc_explicit_int8_content_client"],
    ["grpc_explicit_int_content_client"],
    *(["grpc_image_client", "-m", model, *way, "-c", "3", "FOLDER/0.png"] for model in IMAGE_MODELS for way in WAYS),
    *(["grpc_image_client", "-m", "digits", *way, "-c", "3", "-b", "2", "FOLDER"] for way in WAYS),
    *(["image_client", "-i", "grpc", "-m", model, *way, "-c", "3", "FOLDER/0.png"] for model in IMAGE_MODELS
      for way in ([], ["--async"], ["--async", "--streaming"])),
    ["image_client", "-i", "grpc", "-m", "digits", "-s", "INCEPTION", "-b", "2", "FOLDER"],
    ["simple_grpc_aio_infer_client"],
    ["simple_grpc_async_infer_client"],
    ["simple_grpc_custom_args_client"],
    ["simple_grpc_health_metadata"],
    ["simple_grpc_infer_client"],
    ["simple_grpc_infer_client", "-C", "gzip"],
    ["simple_grpc_infer_client", "-C", "deflate"],
    ["simple_grpc_infer_client", "-t", "30"],
    ["simple_grpc_keepalive_client"],
    ["simple_grpc_keepalive_client", "--grpc-keepalive-time", "100", "--grpc-keepalive-permit-without-calls"],
    ["simple_grpc_model_control"],
    ["simple_grpc_string_infer_client"],
]  # fmt: skip
SAYS_NOTHING = {"grpc_explicit_int_content_client", "simple_grpc_health_metadata"}
"""They print what they got. The others end with PASS."""


@pytest.fixture(scope="module")
def server(transport, tmp_path_factory):
    assert PYTHON.exists(), "run these tests with: make test-triton-examples"
    root = tmp_path_factory.mktemp("models")
    save(add_sub(), root, "simple")
    save(add_sub(TensorProto.INT8), root, "simple_int8")
    save(add_sub(TensorProto.STRING), root, "simple_string")
    save(identity(TensorProto.STRING, names=("INPUT0", "OUTPUT0")), root, "simple_identity")
    save(densenet(), root, "densenet_onnx")
    (root / "densenet_onnx" / "config.pbtxt").write_text(DENSENET_CONFIGURATION)
    (root / "densenet_onnx" / "labels.txt").write_text("\n".join(LABELS))
    metadata = {"conveyor.labels": json.dumps(LABELS), "conveyor.input.layout": "NHWC"}
    save(classifier(height=28, width=28, classes=10, metadata=metadata), root, "digits")
    for name in ("seventh", "eighth"):  # the example of model control counts them
        save(identity(TensorProto.INT32), root, name)
    flags = ["--server-name", "triton", "--model-control", "explicit", "--allow-admin", "--load", "*"]
    with ServerProcess(root, *flags) as process:
        yield process


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("run", RUNS, ids=" ".join)
def test_an_example_runs_unmodified(server, pictures, run):
    name, *arguments = (word.replace("FOLDER", str(pictures)) for word in run)
    command = [PYTHON, EXAMPLES / f"{name}.py", "-u", server.grpc_url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if name not in SAYS_NOTHING:
        assert re.search(r"^PASS\b", done.stdout, re.MULTILINE), done.stdout


def test_the_page_lists_every_example():
    text = PAGE.read_text()
    examples = {path.stem for path in EXAMPLES.glob("*.py")}
    run = {name for name, *_ in RUNS}
    assert examples == set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert run == set(re.findall(r"^\| `(\w+)` \| runs", text, re.MULTILINE))


DENSENET_CONFIGURATION = """
max_batch_size: 0
input [{
  name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [3, 224, 224] reshape { shape: [1, 3, 224, 224] }
}]
output [{
  name: "fc6_1" data_type: TYPE_FP32 dims: [10] reshape { shape: [1, 10, 1, 1] } label_filename: "labels.txt"
}]
"""


def densenet() -> onnx.ModelProto:
    """What clients see of the model of that name: `data_0 [1, 3, 224, 224]` → `fc6_1 [1, 10, 1, 1]`."""
    nodes = [
        helper.make_node("ReduceMean", ["data_0", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
        helper.make_node("Reshape", ["logits", "shape"], ["fc6_1"]),
    ]
    weights = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    constants = {"axes": np.array([2, 3]), "weights": weights, "shape": np.array([1, 10, 1, 1])}
    graph = helper.make_graph(
        nodes,
        "densenet",
        [helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("fc6_1", TensorProto.FLOAT, [1, 10, 1, 1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
