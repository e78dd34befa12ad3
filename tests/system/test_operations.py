"""What operators see and set: metrics, logs, traces, storage, overload. Real processes and real clients."""

import asyncio
import contextlib
import json
import re
import signal
import urllib.request
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from conveyor_server.client import Client
from conveyor_server.generated import inference_pb2 as pb
from support.object_storage import S3Server
from support.onnx_models import classifier, identity, predict_classifier, save
from support.processes import ServerProcess

UNKNOWN_TO_GRPCIO = "conveyor_connections", "conveyor_closed_connections_total", "conveyor_worker_connections"
METRICS_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
IMAGES = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
SECRET = "a-text-that-must-not-be-logged"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def repository(tmp_path):
    save(classifier(), tmp_path, "digits")
    save(identity(TensorProto.STRING), tmp_path, "words")
    save(classifier(), tmp_path, "broken").write_bytes(b"no")
    return tmp_path


def infer(client, model="digits", data=IMAGES, **options):
    name, kind = ("input", "BYTES") if model == "words" else ("image", "FP32")
    tensor = triton.InferInput(name, list(data.shape), kind)
    tensor.set_data_from_numpy(data)
    return client.infer(model, [tensor], **options)


def test_the_page_of_metrics_and_a_real_server_agree(repository):
    # Several workers have all metrics of a single process, and a few of their own.
    server = ServerProcess(repository, "--workers", "2")
    with server, triton.InferenceServerClient(server.grpc_url) as client:
        infer(client)
        with urllib.request.urlopen(f"{server.http_url}/metrics", timeout=30) as response:
            page = response.read().decode()
    served = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    ours = {name: kind for name, kind in served.items() if name.startswith("conveyor_")}
    text = METRICS_PAGE.read_text()
    documented = dict(re.findall(r"^\| `(conveyor_\w+)` \| (\w+) \|", text, re.MULTILINE))
    assert documented == ours
    # Every name in the text, the table from Triton's names included, is one of them or one of its series.
    samples = set(re.findall(r"^([a-z_]+)(?:\{| )", page, re.MULTILINE))
    mentioned = set(re.findall(r"\b(?:conveyor|process)_\w+", text))
    assert mentioned <= samples | set(served)
    assert {name for name in served if name.startswith("process_")} <= mentioned
    labels = dict(re.findall(r"^\| `(conveyor_\w+)` \| \w+ \| ([^|]*) \|", text, re.MULTILINE))
    for name, documented_labels in labels.items():
        if not re.search(rf"^{name}", page, re.MULTILINE):
            assert name in UNKNOWN_TO_GRPCIO
            continue
        series = re.search(rf"^{name}(?:_bucket)?{{(.*)}} ", page, re.MULTILINE)
        real = set(re.findall(r'(\w+)="', series[1])) - {"le"} if series else set()
        assert set(re.findall(r"`(\w+)`", documented_labels)) == real, name


@pytest.mark.parametrize("style", ["human", "json"])
def test_logs_have_request_ids_and_never_payloads(repository, style):
    flags = ("--access-log", "--log-format", style, "--log-level", "debug")
    with ServerProcess(repository, *flags) as server, triton.InferenceServerClient(server.grpc_url) as client:
        infer(client, request_id="first")
        infer(client, "words", np.array([[SECRET, SECRET]], np.object_), request_id="second")
        with pytest.raises(triton.InferenceServerException):
            infer(client, "words", np.array([[[SECRET]]], np.object_), request_id="third\nforged")
        with grpc.insecure_channel(server.grpc_url) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\xff" + SECRET.encode(), timeout=30)
        server.signal(signal.SIGINT)
        assert server.exit_code() == 0
    text = "\n".join(server.log)
    assert SECRET not in text
    assert IMAGES.tobytes()[:16].hex() not in text
    lines = [line for line in server.log if "ModelInfer" in line]
    assert len(lines) == 4
    if style == "json":
        events = [json.loads(line) for line in server.log]
        assert all({"time", "level", "message"} <= set(event) for event in events)
        assert {("digits", 1), ("words", 1), ("broken", 1)} <= {
            (event.get("model"), event.get("version")) for event in events if not event.get("method")
        }
        first, second, third, fourth = (event for event in events if event.get("method"))
        assert (first["model"], first["version"], first["rows"], first["code"]) == ("digits", 1, 4, "OK")
        assert (first["request_id"], second["request_id"]) == ("first", "second")
        assert third["code"] == fourth["code"] == "INVALID_ARGUMENT"
    else:
        assert re.search(r"ModelInfer model=digits version=1 rows=4 code=OK ms=\d+\.\d{3} id=first$", lines[0])
        assert lines[2].endswith(r"id=third\nforged")


def test_without_the_flag_there_is_no_line_for_a_request(repository):
    with ServerProcess(repository) as server, triton.InferenceServerClient(server.grpc_url) as client:
        infer(client, request_id="first")
    assert "first" not in "\n".join(server.log)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector that keeps what it gets."""

    def __init__(self):
        self.spans = []

    def Export(self, request, context):  # the protocol's name
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector():
    made = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    made.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    server.stop(0).wait()


def test_traces_arrive_at_a_collector(repository, collector):
    with (
        ServerProcess(repository, "--trace-endpoint", collector.url) as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        infer(client, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}, request_id="7")
        server.signal(signal.SIGINT)
        assert server.exit_code() == 0
    spans = {span.name.split("/")[-1]: span for span in collector.spans}
    assert set(spans) == {"ModelInfer", "queue", "run"}
    request = spans["ModelInfer"]
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    assert spans["queue"].parent_span_id == request.span_id
    assert [link.span_id for link in spans["run"].links] == [request.span_id]
    assert request.start_time_unix_nano <= spans["run"].start_time_unix_nano <= request.end_time_unix_nano


def test_a_repository_on_object_storage_is_served_and_followed(tmp_path):
    with S3Server() as storage, contextlib.closing(storage.client()) as s3:
        s3.create_bucket(Bucket="models")

        def publish(version):
            content = classifier(seed=version).SerializeToString()
            s3.put_object(Bucket="models", Key=f"prod/digits/{version}/model.onnx", Body=content)

        publish(1)
        flags = ["--repository-cache", str(tmp_path), "--model-control", "poll", "--poll-seconds", "0.1"]
        with (
            ServerProcess("s3://models/prod", *flags, environment=storage.environment) as server,
            Client(server.grpc_url) as client,
        ):
            one, two = (predict_classifier(IMAGES, seed=version) for version in (1, 2))
            np.testing.assert_allclose(client.predict("digits", IMAGES), one, atol=1e-5)
            publish(2)
            server.wait_for("digits version 2 is ready")
            while not np.allclose(client.predict("digits", IMAGES), two, atol=1e-5):
                pass


def test_an_unreachable_storage_is_a_clear_end(tmp_path):
    environment = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    flags = ["--repository-cache", str(tmp_path)]
    with ServerProcess("s3://bucket", *flags, ready="conveyor-server: ", environment=environment) as server:
        assert server.exit_code() == 1
    assert "cannot be listed: it cannot be reached; check the network, and AWS_ENDPOINT_URL" in server.log[-1]


async def test_calls_beyond_the_bound_are_cut_off_and_the_server_goes_on(repository, transport):
    request = pb.ModelInferRequest(model_name="digits")
    request.inputs.add(name="image", datatype="FP32", shape=IMAGES.shape)
    request.raw_input_contents.append(IMAGES.tobytes())
    message = request.SerializeToString()
    with ServerProcess(repository, "--max-waiting-calls", "8") as server:
        async with grpc.aio.insecure_channel(server.grpc_url) as channel:
            ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            outcomes = await asyncio.gather(*(code(ask, message) for _ in range(1000)))
            assert set(outcomes) == {"OK", "CANCELLED" if transport == "grpcio" else "UNAVAILABLE"}
            assert await code(ask, message) == "OK"


async def code(ask, message):
    try:
        await ask(message, timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"
