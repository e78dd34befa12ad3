"""Real clients against a real server."""

import asyncio
import subprocess
import sys
import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto
from PIL import Image

from conveyor_server.client import CallError, Client
from support.onnx_models import add_sub, classifier, heavy, identity, predict_classifier, save
from support.processes import ServerProcess

IMAGES = np.random.default_rng(0).random((200, 8, 8, 1), np.float32)
EXPECTED = predict_classifier(IMAGES)


@pytest.fixture(scope="module")
def server(transport, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(classifier(metadata={"conveyor.labels": '["a", "b", "c", "d"]'}), root, "digits", 3)
    save(heavy(), root, "heavy")
    save(add_sub(), root, "simple")
    save(identity(TensorProto.STRING), root, "strings")
    save(classifier(), root, "truncated").write_bytes(classifier().SerializeToString()[:-50])
    future = classifier()
    future.opset_import[0].version = 999
    save(future, root, "future")
    outside = classifier()
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    outside.graph.initializer[0].external_data.add(key="location", value="weights.bin")
    save(outside, root, "outside")
    foreign = classifier()
    foreign.graph.node.add(op_type="Custom", domain="com.example", input=["image"], output=["x"])
    save(foreign, root, "foreign")
    with ServerProcess(root) as process:
        yield process


@pytest.fixture
def client(server):
    with Client(server.grpc_url) as client:
        yield client


def image_input(images):
    tensor = triton.InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    return tensor


@pytest.mark.parametrize("batch", [1, 5, 200])
def test_tritonclient(server, batch):
    with triton.InferenceServerClient(server.grpc_url) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits", "3")
        result = client.infer("digits", [image_input(IMAGES[:batch])], request_id="7", client_timeout=30)
        assert result.get_response().id == "7"
        np.testing.assert_allclose(result.as_numpy("probabilities"), EXPECTED[:batch], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 5, 200])
async def test_tritonclient_asyncio(server, batch):
    async with triton_aio.InferenceServerClient(server.grpc_url) as client:
        result = await client.infer("digits", [image_input(IMAGES[:batch])], client_timeout=30)
        np.testing.assert_allclose(result.as_numpy("probabilities"), EXPECTED[:batch], atol=1e-5)


async def test_many_at_once_get_their_own_rows(server):
    """Sizes around the run size, models fast and slow, all in flight together."""
    sizes = [1, 2, 3, 60, 64, 65, 130, 200] * 8
    async with triton_aio.InferenceServerClient(server.grpc_url) as client:

        async def one(number, size):
            start = number % (len(IMAGES) - size + 1)
            result = await client.infer("digits", [image_input(IMAGES[start : start + size])], client_timeout=60)
            np.testing.assert_allclose(result.as_numpy("probabilities"), EXPECTED[start : start + size], atol=1e-5)

        async def slow(number):
            data = np.full((number + 1, 1024), number, np.float32)
            tensor = triton.InferInput("input", list(data.shape), "FP32")
            tensor.set_data_from_numpy(data)
            result = await client.infer("heavy", [tensor], client_timeout=60)
            np.testing.assert_allclose(result.as_numpy("output"), data, rtol=1e-5)

        await asyncio.gather(*(one(*case) for case in enumerate(sizes)), *(slow(number) for number in range(20)))


def test_typed_contents_and_two_outputs(server):
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name="simple")
    for name, value in (("INPUT0", 5), ("INPUT1", 3)):
        tensor = request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        tensor.contents.int_contents.extend([value] * 16)
    request.outputs.add(name="OUTPUT1")
    request.outputs.add(name="OUTPUT0")
    with grpc.insecure_channel(server.grpc_url) as channel:
        response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
    assert [output.name for output in response.outputs] == ["OUTPUT1", "OUTPUT0"]
    assert [np.frombuffer(raw, np.int32).tolist() for raw in response.raw_output_contents] == [[2] * 16, [8] * 16]


def test_strings(server):
    words = np.array([["grüß", ""], ["dich", "Welt"]], np.object_)
    tensor = triton.InferInput("input", [2, 2], "BYTES")
    tensor.set_data_from_numpy(np.char.encode(words.astype(str), "utf-8").astype(np.object_))
    with triton.InferenceServerClient(server.grpc_url) as client:
        result = client.infer("strings", [tensor], client_timeout=30)
    assert [value.decode() for value in result.as_numpy("output").ravel()] == words.ravel().tolist()


@pytest.mark.parametrize(
    ("call", "code", "text"),
    [
        ({"model": "nope"}, "NOT_FOUND", "Request for unknown model: 'nope' is not found"),
        ({"version": "9"}, "NOT_FOUND", "version 9 is not found"),
        ({"model": "truncated"}, "UNAVAILABLE", "is not an ONNX model, or was cut off"),
        ({"model": "future"}, "UNAVAILABLE", "refuses it"),
        ({"model": "outside"}, "UNAVAILABLE", "is stored outside the model file"),
        ({"model": "foreign"}, "UNAVAILABLE", "belongs to the domain 'com.example'"),
        ({"images": IMAGES[:1, :4]}, "INVALID_ARGUMENT", "Expected [-1,8,8,1], got [1,4,8,1]"),
        ({"images": np.zeros((1025, 8, 8, 1), np.float32)}, "INVALID_ARGUMENT", "batch-size must be <= 1024"),
    ],
)
def test_errors_have_their_code_and_reason(server, call, code, text):
    with triton.InferenceServerClient(server.grpc_url) as client:
        images = call.get("images", IMAGES[:1])
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer(call.get("model", "digits"), [image_input(images)], model_version=call.get("version", ""))
    assert caught.value.status() == f"StatusCode.{code}"
    assert text in caught.value.message()


def test_every_reason_is_in_the_log(server):
    log = "\n".join(server.log)
    for name in ("truncated", "future", "outside", "foreign"):
        assert f"{name} version 1 is not served: " in log
    assert "Ready: digits, heavy, simple, strings." in log


def test_bytes_that_are_no_message_are_the_clients_fault(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        for method in ("ModelInfer", "ModelMetadata"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"\xff\xff\xff", timeout=30)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_not_served_is_unimplemented(server):
    with (
        triton.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(triton.InferenceServerException) as caught,
    ):
        client.get_system_shared_memory_status()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_health(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        for service, status in [("", serving), ("digits", serving), ("truncated", not_serving)]:
            assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status == status
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=30)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_deadline_that_passes_is_said(client):
    client.describe("heavy")
    with pytest.raises(CallError) as caught:
        client.predict("heavy", np.ones((1024, 1024)), timeout=0.001)
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_client_library(client):
    got = client.predict("digits", IMAGES.astype(np.float64))
    np.testing.assert_allclose(got, EXPECTED, atol=1e-5)
    assert got.dtype == np.float32
    assert client.describe("digits").labels == ["a", "b", "c", "d"]
    assert client.describe("digits").version == "3"
    summed = client.infer("simple", {"INPUT0": np.full((1, 16), 2, np.int32), "INPUT1": np.ones((1, 16), np.int32)})
    assert summed["OUTPUT0"].tolist() == [[3] * 16]
    assert client.predict("strings", [["a", "b"]]).tolist() == [["a", "b"]]


def test_client_library_names_what_is_wrong(client):
    with pytest.raises(TypeError, match=r"wants float32, got uint8. Convert the values.*divided by 255"):
        client.predict("digits", np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match=r"several inputs \(INPUT0, INPUT1\)"):
        client.predict("simple", np.zeros((1, 16)))
    with pytest.raises(ValueError, match="Model 'digits' has no input 'x'; it has image"):
        client.infer("digits", {"x": IMAGES})
    with pytest.raises(CallError, match="NOT_FOUND: Request for unknown model: 'nope'"):
        client.predict("nope", IMAGES)


def get(url):
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.status, response.read().decode()


def test_metrics_and_probes_over_http(server, client):
    client.predict("digits", IMAGES[:7])
    assert get(f"{server.http_url}/healthz") == (200, "ok\n")
    assert get(f"{server.http_url}/readyz") == (200, "ready\n")
    _, page = get(f"{server.http_url}/metrics")
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert float(lines['conveyor_requests_total{code="OK",model="digits"}']) >= 1
    assert float(lines['conveyor_request_duration_seconds_count{model="digits"}']) >= 1
    assert float(lines['conveyor_queue_duration_seconds_count{model="digits"}']) >= 1
    assert float(lines['conveyor_run_duration_seconds_count{model="digits"}']) >= 1
    assert float(lines['conveyor_batch_rows_bucket{le="8.0",model="digits"}']) >= 1
    assert lines['conveyor_queue_rows{model="digits",version="3"}'] == "0.0"
    assert lines['conveyor_model_ready{model="digits",version="3"}'] == "1.0"
    assert lines['conveyor_model_ready{model="truncated",version="1"}'] == "0.0"
    assert float(lines['conveyor_run_size_rows{model="digits",version="3"}']) >= 1
    assert lines['conveyor_execution_provider{model="digits",provider="CPUExecutionProvider",version="3"}'] == "1.0"


def run_client(*arguments):
    command = [sys.executable, "-m", "conveyor_server.client.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={"COLUMNS": "200"})
    return done.returncode, done.stdout, done.stderr


def test_client_command_predicts_pictures(server, tmp_path):
    (tmp_path / "a").mkdir()
    exact, large = tmp_path / "a" / "exact.png", tmp_path / "a" / "large.jpg"
    pixels = (IMAGES[0, :, :, 0] * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(exact)
    Image.fromarray(pixels).resize((20, 30)).convert("RGB").save(large)
    code, out, err = run_client(
        "predict", "digits", exact, large, "--url", server.grpc_url, "--true-label-from-folder", "--show"
    )
    assert code == 0, err
    probabilities = predict_classifier(pixels[None, :, :, None] / 255)[0]
    row = next(line for line in out.splitlines() if "exact.png" in line)
    assert f" {'abcd'[probabilities.argmax()]} " in row.split("│")[3]
    assert f"{probabilities.max():.4f}" in row
    assert "of 2 right" in out
    assert "2 picture(s) in one request to digits version 3" in out
    assert "large.jpg is 20x30 pixels and was resized to the model's 8x8" in err
    assert "exact.png" not in err


def test_client_command_shows_the_state_of_the_server(server):
    code, out, _ = run_client("status", "--url", server.grpc_url)
    assert code == 0
    assert f"at {server.grpc_url}: ready" in out
    assert "READY" in next(line for line in out.splitlines() if "digits" in line)
    assert "cut off" in next(line for line in out.splitlines() if "truncated" in line)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["predict", "nope", "x.png"], "NOT_FOUND: Request for unknown model: 'nope'"),
        (["predict", "digits", "x.png"], "'x.png' cannot be read"),
        (["predict", "simple", "x.png"], "Model 'simple' takes no pictures"),
    ],
)
def test_client_command_fails_with_one_clear_line(server, arguments, text):
    code, out, err = run_client(*arguments, "--url", server.grpc_url)
    assert (code, out) == (1, "")
    assert text in err
    assert "Traceback" not in err


def test_client_command_without_a_server_says_how_to_start_one():
    code, _, err = run_client("status", "--url", "127.0.0.1:1")
    assert code == 1
    assert "Start one with: conveyor-server" in err
