"""What clients of the protocol ask of a server beyond single inferences, each with a public client or a generic one."""

import asyncio
import contextlib
import queue
import signal
import threading
import time

import grpc
import grpc.aio
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from onnx import TensorProto
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from support.onnx_models import add_sub, classifier, heavy, identity, predict_classifier, save
from support.processes import ServerProcess

LABELS = '["zero", "one", "two", "three"]'
IMAGES = np.random.default_rng(0).random((20, 8, 8, 1), np.float32)
SERVING, NOT_SERVING, SERVICE_UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)


@pytest.fixture(scope="module")
def server(transport, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(classifier(metadata={"conveyor.labels": LABELS}), root, "digits")
    save(add_sub(), root, "simple")
    save(add_sub(TensorProto.INT8), root, "simple_int8")
    save(add_sub(TensorProto.STRING), root, "simple_string")
    save(identity(TensorProto.STRING), root, "strings")
    save(identity(TensorProto.FLOAT, [3, "n"]), root, "unbatched")
    save(identity(TensorProto.BFLOAT16), root, "bf16")
    save(identity(TensorProto.FLOAT16), root, "fp16")
    save(heavy(layers=30), root, "heavy")
    with ServerProcess(root) as process:
        yield process


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.grpc_url) as client:
        yield client


def tensor(name, array, datatype):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def pair(a, b, datatype="INT32"):
    return [tensor("INPUT0", a, datatype), tensor("INPUT1", b, datatype)]


NUMBERS = np.arange(16, dtype=np.int32)[None], np.ones((1, 16), np.int32)


def image_request(images=IMAGES[:1], **fields):
    request = service_pb2.ModelInferRequest(**{"model_name": "digits", **fields})
    request.inputs.add(name="image", datatype="FP32", shape=images.shape)
    request.raw_input_contents.append(images.tobytes())
    return request


class Stream:
    """tritonclient's stream, with its answers in a queue."""

    def __init__(self, client, **options):
        self.client, self.options, self.answers = client, options, queue.Queue()

    def __enter__(self):
        self.client.start_stream(lambda result, error: self.answers.put((result, error)), **self.options)
        return self

    def __exit__(self, *_):
        self.client.stop_stream()

    def take(self):
        return self.answers.get(timeout=30)


def test_many_requests_on_one_stream_with_errors_among_them(client):
    with Stream(client) as stream:
        for number in range(40):
            rows = np.full((1, 16), number, np.int32)
            model = "nope" if number % 10 == 7 else "simple"
            client.async_stream_infer(model, pair(rows, rows), request_id=str(number))
        answers = [stream.take() for _ in range(40)]
    good = {result.get_response().id: result for result, error in answers if error is None}
    bad = [error for _, error in answers if error is not None]
    assert len(good) == 36
    for number, result in good.items():
        assert (result.as_numpy("OUTPUT0") == 2 * int(number)).all()
        assert result.get_response().parameters["triton_final_response"].bool_param
    assert all("Request for unknown model: 'nope'" in error.message() for error in bad)


def raw_stream(url, requests, **options):
    with grpc.insecure_channel(url) as channel:
        yield from service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(requests), **options)


def test_an_error_on_a_stream_names_its_request(server):
    requests = [image_request(id="a", model_name="nope"), image_request(id="b"), image_request(IMAGES[:, :3], id="c")]
    answers = {answer.infer_response.id: answer for answer in raw_stream(server.grpc_url, requests, timeout=30)}
    assert [answers[name].error_message[:20] for name in "abc"] == ["Request for unknown ", "", "unexpected shape for"]
    assert len(answers["b"].infer_response.raw_output_contents) == 1


def test_bytes_on_a_stream_that_are_no_message_are_answered(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        good = image_request(id="x").SerializeToString()
        answers = [
            service_pb2.ModelStreamInferResponse.FromString(data) for data in call(iter([b"\xff", good]), timeout=30)
        ]
    assert sorted(answer.infer_response.id for answer in answers) == ["", "x"]
    assert "not a valid inference.ModelInferRequest" in next(a.error_message for a in answers if a.error_message)


async def test_a_small_model_overtakes_a_slow_one_on_a_stream(server):
    async def requests():
        yield {"model_name": "heavy", "inputs": [tensor("input", np.ones((256, 1024), np.float32), "FP32")]}
        yield {"model_name": "simple", "inputs": pair(*NUMBERS)}

    async with triton_aio.InferenceServerClient(server.grpc_url) as client:
        answers = [result.get_response().model_name async for result, _ in client.stream_infer(requests())]
    assert answers == ["simple", "heavy"]


async def test_a_slow_model_with_a_long_queue_keeps_no_other_waiting(server):
    """Without shares the small requests would be answered behind the heavy ones; with them, beside a few."""
    heavy_input = tensor("input", np.ones((256, 1024), np.float32), "FP32")
    async with triton_aio.InferenceServerClient(server.grpc_url) as client:
        waiting = [asyncio.create_task(client.infer("heavy", [heavy_input])) for _ in range(16)]
        while not any(task.done() for task in waiting):
            await client.infer("simple", pair(*NUMBERS))
        for _ in range(20):
            await client.infer("simple", pair(*NUMBERS))
        assert sum(task.done() for task in waiting) < 8
        await asyncio.gather(*waiting)


def test_cancelling_a_stream_gives_up_its_requests(client, server):
    before = fails(client, "heavy")
    with Stream(client) as stream:
        data = np.ones((256, 1024), np.float32)
        for _ in range(20):
            client.async_stream_infer("heavy", [tensor("input", data, "FP32")])
        stream.take()
        client.stop_stream(cancel_requests=True)
    deadline = time.monotonic() + 30
    while fails(client, "heavy") < before + 10:
        assert time.monotonic() < deadline, "requests of a cancelled stream still run"


def fails(client, model):
    return client.get_inference_statistics(model).model_stats[0].inference_stats.fail.count


def test_a_client_that_does_not_read_is_not_read_on(server):
    """Requests of a stream are bounded by back-pressure, not by the memory of the server."""
    sent = 0
    done = threading.Event()

    def flood():
        nonlocal sent
        images = np.zeros((200, 8, 8, 1), np.float32)  # 51 kB a request
        while not done.is_set() and sent < 5000:
            sent += 1
            yield image_request(images)

    with grpc.insecure_channel(server.grpc_url) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(flood(), timeout=60)
        seen = -1
        while sent != seen:  # until the flood stands still
            seen = sent
            time.sleep(0.5)
        assert sent < 5000
        assert not next(call).error_message
        done.set()
        call.cancel()


def watch(url, service):
    channel = grpc.insecure_channel(url)
    call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)
    return channel, call


def test_health_is_watched_until_the_server_leaves(tmp_path):
    save(classifier(), tmp_path, "digits")
    with ServerProcess(tmp_path, "--lame-duck-seconds", "1") as server:
        watched = {name: watch(server.grpc_url, name) for name in ("", "digits", "nope")}
        first = {name: next(call).status for name, (_, call) in watched.items()}
        assert first == {"": SERVING, "digits": SERVING, "nope": SERVICE_UNKNOWN}
        server.signal(signal.SIGTERM)
        assert next(watched[""][1]).status == NOT_SERVING
        assert next(watched["digits"][1]).status == NOT_SERVING
        for _, call in watched.values():
            with pytest.raises(grpc.RpcError) as ended:
                next(call)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.exit_code(30) == 0
        for channel, _ in watched.values():
            channel.close()


def test_health_follows_models_that_come_and_go(tmp_path):
    save(classifier(), tmp_path, "digits")
    with (
        ServerProcess(tmp_path, "--model-control", "explicit", "--allow-admin", ready="Not ready") as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        channel, call = watch(server.grpc_url, "digits")
        assert next(call).status == SERVICE_UNKNOWN
        client.load_model("digits")
        while (status := next(call).status) != SERVING:
            assert status == NOT_SERVING  # while it loads
        client.unload_model("digits")
        assert next(call).status in (NOT_SERVING, SERVICE_UNKNOWN)
        call.cancel()
        channel.close()


async def test_an_idle_stream_does_not_hold_up_the_drain_and_its_accepted_requests_are_answered(tmp_path):
    save(heavy(), tmp_path, "heavy")
    with ServerProcess(tmp_path, "--threads", "1") as server:
        data = np.ones((64, 1024), np.float32)
        request = service_pb2.ModelInferRequest(model_name="heavy", raw_input_contents=[data.tobytes()])
        request.inputs.add(name="input", datatype="FP32", shape=data.shape)
        async with grpc.aio.insecure_channel(server.grpc_url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            idle, busy = stub.ModelStreamInfer(), stub.ModelStreamInfer()
            await idle.write(request)
            assert not (await idle.read()).error_message
            for number in range(40):
                request.id = str(number)
                await busy.write(request)
            answers = [await busy.read()]
            server.signal(signal.SIGTERM)
            with contextlib.suppress(grpc.aio.AioRpcError):  # its code is looked at below
                while (answer := await asyncio.wait_for(busy.read(), 60)) is not grpc.aio.EOF:
                    answers.append(answer)
            assert await busy.code() is await idle.code() is grpc.StatusCode.UNAVAILABLE
        assert sorted(int(answer.infer_response.id) for answer in answers) == list(range(40))
        assert {answer.error_message for answer in answers} <= {
            "",
            "The server is shutting down and has stopped accepting new requests.",
        }
        assert await asyncio.to_thread(server.exit_code) == 0


def test_a_generic_client_needs_no_proto_file(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == {
            "inference.GRPCInferenceService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        pool = DescriptorPool(database)
        for service in database.get_services():
            pool.FindServiceByName(service)
        method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelInfer")
        request = GetMessageClass(method.input_type)(model_name="digits", id="generic")
        request.inputs.add(name="image", datatype="FP32", shape=IMAGES.shape)
        request.raw_input_contents.append(IMAGES.tobytes())
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            type(request).SerializeToString,
            GetMessageClass(method.output_type).FromString,
        )
        response = call(request, timeout=30)
    assert response.id == "generic"
    got = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(-1, 4)
    np.testing.assert_allclose(got, predict_classifier(IMAGES), atol=1e-5)


def test_reflection_answers_what_it_does_not_know(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        for question in (database.FindFileByName, database.FindFileContainingSymbol):
            with pytest.raises(KeyError):
                question("nope")
        assert list(database.FindAllExtensionNumbers("inference.ModelInferRequest")) == []


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_requests_and_responses_may_be_compressed(server, client, algorithm):
    result = client.infer("simple", pair(*NUMBERS), compression_algorithm=algorithm)
    assert (result.as_numpy("OUTPUT0") == NUMBERS[0] + 1).all()
    with Stream(client, compression_algorithm=algorithm) as stream:
        client.async_stream_infer("simple", pair(*NUMBERS))
        assert (stream.take()[0].as_numpy("OUTPUT1") == NUMBERS[0] - 1).all()


def test_statistics_count_rows_runs_and_times(server, client):
    def now():
        (one,) = client.get_inference_statistics("digits", "1").model_stats
        return one

    before = now()
    started = time.time_ns() // 1_000_000
    for _ in range(3):
        client.infer("digits", [tensor("image", IMAGES, "FP32")])
    with pytest.raises(InferenceServerException):
        client.infer("digits", [tensor("image", IMAGES[:, :2], "FP32")])
    after = now()
    assert (after.name, after.version) == ("digits", "1")
    assert after.inference_count - before.inference_count == 60
    assert 3 <= after.execution_count - before.execution_count <= 60
    assert started - 60_000 <= after.last_inference <= time.time_ns() // 1_000_000 + 60_000
    for kind, count in {"success": 3, "fail": 1, "queue": 3, "compute_input": 3, "compute_infer": 3}.items():
        one, other = getattr(before.inference_stats, kind), getattr(after.inference_stats, kind)
        assert (kind, other.count - one.count) == (kind, count)
    assert after.inference_stats.success.ns > after.inference_stats.compute_infer.ns > 0
    assert sum(batch.batch_size * batch.compute_infer.count for batch in after.batch_stats) == after.inference_count


def test_statistics_of_all_models_and_of_none(client):
    names = [one.name for one in client.get_inference_statistics().model_stats]
    assert {"digits", "simple", "strings"} <= set(names)
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'nope'"):
        client.get_inference_statistics("nope")


def test_the_extensions_are_listed(client):
    metadata = client.get_server_metadata()
    assert metadata.name == "conveyor"
    listed = {"classification", "model_repository", "model_configuration", "binary_tensor_data", "parameters"}
    assert listed | {"statistics", "schedule_policy"} <= set(metadata.extensions)


def test_classes_with_labels(client):
    wanted = [triton.InferRequestedOutput("probabilities", class_count=2)]
    result = client.infer("digits", [tensor("image", IMAGES[:3], "FP32")], outputs=wanted)
    classes = result.as_numpy("probabilities")
    assert classes.shape == (3, 2)
    for row, expected in zip(classes, predict_classifier(IMAGES[:3]), strict=True):
        best = expected.argsort()[::-1][:2]
        for text, index in zip(row, best, strict=True):
            value, number, label = text.decode().split(":")
            assert (int(number), label) == (index, ["zero", "one", "two", "three"][index])
            assert abs(float(value) - expected[index]) < 1e-5
            assert len(value.split(".")[1]) == 6


def test_classes_of_a_model_without_a_batch_axis_and_of_strings(client):
    wanted = [triton.InferRequestedOutput("output", class_count=9)]
    data = np.array([[1, 5], [2, 4], [0, 9]], np.float32)
    result = client.infer("unbatched", [tensor("input", data, "FP32")], outputs=wanted)
    assert [text.decode() for text in result.as_numpy("output")][:2] == ["9.000000:5", "5.000000:1"]
    with pytest.raises(InferenceServerException, match="unsupported type 'BYTES'"):
        client.infer("strings", [tensor("input", np.array([[b"a"]], np.object_), "BYTES")], outputs=wanted)


def test_parameters_of_a_request(client):
    client.infer("simple", pair(*NUMBERS), priority=1, timeout=5_000_000, parameters={"mine": "x"}, sequence_id=7)
    request = service_pb2.ModelInferRequest(model_name="simple")
    request.parameters["timeout"].string_param = "1"
    with pytest.raises(InferenceServerException, match="invalid value type for 'timeout' parameter"):
        infer(client, request)


def infer(client, request):
    try:
        return client._client_stub.ModelInfer(request, timeout=30)
    except grpc.RpcError as error:
        raise InferenceServerException(error.details(), str(error.code())) from error


@pytest.mark.parametrize(("name", "datatype", "field"), [("simple", "INT32", "int"), ("simple_int8", "INT8", "int")])
def test_explicit_contents(client, name, datatype, field):
    request = service_pb2.ModelInferRequest(model_name=name)
    for number in (0, 1):
        one = request.inputs.add(name=f"INPUT{number}", datatype=datatype, shape=[1, 16])
        getattr(one.contents, f"{field}_contents").extend([number + 2] * 16)
    response = infer(client, request)
    dtype = {"INT32": np.int32, "INT8": np.int8}[datatype]
    assert [np.frombuffer(raw, dtype).tolist() for raw in response.raw_output_contents] == [[5] * 16, [-1] * 16]


def test_explicit_strings_and_strings_of_numbers(client):
    words = np.array([[str(number).encode() for number in range(16)]], np.object_)
    result = client.infer("simple_string", pair(words, words, "BYTES"))
    assert [int(text) for text in result.as_numpy("OUTPUT0")[0]] == [2 * number for number in range(16)]
    request = service_pb2.ModelInferRequest(model_name="strings")
    request.inputs.add(name="input", datatype="BYTES", shape=[1, 2]).contents.bytes_contents.extend([b"", "ü".encode()])
    assert infer(client, request).raw_output_contents[0] == b"\0\0\0\0\x02\0\0\0" + "ü".encode()


def test_half_and_brain_floats_are_raw(client):
    for name, datatype, dtype in (("fp16", "FP16", np.float16), ("bf16", "BF16", ml_dtypes.bfloat16)):
        data = np.array([[1.5, -2.25, 3e4]], dtype)
        request = service_pb2.ModelInferRequest(model_name=name, raw_input_contents=[data.tobytes()])
        request.inputs.add(name="input", datatype=datatype, shape=data.shape)
        assert infer(client, request).raw_output_contents[0] == data.tobytes()
    result = client.infer("bf16", [tensor("input", np.array([[1.5, -2.25]], ml_dtypes.bfloat16), "BF16")])
    assert result.as_numpy("output").tolist() == [[1.5, -2.25]]


async def test_requests_of_different_lengths_at_once(server):
    """An axis that the model leaves open may differ from request to request; such requests cannot share a run."""
    async with triton_aio.InferenceServerClient(server.grpc_url) as client:

        async def one(length):
            data = np.array([[str(length).encode()] * length], np.object_)
            result = await client.infer("strings", [tensor("input", data, "BYTES")], client_timeout=30)
            assert result.as_numpy("output").tolist() == data.tolist()

        await asyncio.gather(*(one(1 + number % 5) for number in range(50)))


def test_keep_alive_options(server):
    options = triton.KeepAliveOptions(
        keepalive_time_ms=2**31 - 1, keepalive_timeout_ms=20000, http2_max_pings_without_data=2
    )
    with triton.InferenceServerClient(server.grpc_url, keepalive_options=options) as client:
        assert client.is_server_live()


def test_asynchronous_requests_by_callback(client):
    answers = queue.Queue()
    client.async_infer("simple", pair(*NUMBERS), lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=30)
    assert error is None
    assert (result.as_numpy("OUTPUT0") == NUMBERS[0] + 1).all()


@pytest.fixture(scope="module")
def controlled(transport, tmp_path_factory):
    root = tmp_path_factory.mktemp("controlled")
    save(add_sub(), root, "simple")
    with ServerProcess(root, "--model-control", "explicit", "--allow-admin", "--load", "simple") as process:
        yield process


def test_models_are_loaded_and_unloaded_by_request(controlled):
    with triton.InferenceServerClient(controlled.grpc_url) as client:
        client.unload_model("simple")
        assert not client.is_model_ready("simple")
        client.load_model("simple")
        assert client.is_model_ready("simple")
        for config in ('{"max_batch_size": "16"}', "max_batch_size: 16"):
            client.load_model("simple")
            client.load_model("simple", config=config)
            assert client.get_model_config("simple").config.max_batch_size == 16
        rows = np.zeros((17, 16), np.int32)
        with pytest.raises(InferenceServerException, match="batch-size must be <= 16"):
            client.infer("simple", pair(rows, rows))


@pytest.mark.parametrize(
    ("name", "options", "code", "text"),
    [
        ("nope", {}, "NOT_FOUND", "failed to load 'nope', failed to poll from model repository"),
        ("model..1", {}, "NOT_FOUND", "failed to poll from model repository"),
        (" \t", {}, "INVALID_ARGUMENT", "Model name cannot be empty. Please enter a valid name to deploy."),
        (" ..", {}, "INVALID_ARGUMENT", "model name must not contain path traversal characters"),
        ("a/../b", {}, "INVALID_ARGUMENT", "model name must not contain path traversal characters"),
        ("simple", {"config": '"parameters": {'}, "INVALID_ARGUMENT", "failed to load 'simple': its 'config' is not"),
        ("simple", {"config": '{"nope": 1}'}, "INVALID_ARGUMENT", "no field named"),
        (
            "simple",
            {"config": "{}", "files": {"file:1/model.onnx": b"x"}},
            "INTERNAL",
            "failed to poll from model repository: the parameter 'file:1/model.onnx' is not served",
        ),
    ],
)
def test_a_load_that_cannot_be_done_says_why_and_changes_nothing(controlled, name, options, code, text):
    with triton.InferenceServerClient(controlled.grpc_url) as client:
        client.load_model("simple")
        with pytest.raises(InferenceServerException) as refused:
            client.load_model(name, **options)
        assert refused.value.status() == f"StatusCode.{code}"
        assert text in refused.value.message()
        assert client.is_model_ready("simple")


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        ((), "UNAVAILABLE", "explicit model load / unload is not allowed if polling is enabled"),
        (("--model-control", "explicit", "--load", "*"), "PERMISSION_DENIED", "--allow-admin"),
    ],
)
def test_model_control_must_be_allowed(tmp_path, flags, code, text):
    save(add_sub(), tmp_path, "simple")
    with ServerProcess(tmp_path, *flags) as server, triton.InferenceServerClient(server.grpc_url) as client:
        for ask in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException) as refused:
                ask("simple")
            assert refused.value.status() == f"StatusCode.{code}"
            assert text in refused.value.message()
        assert client.is_model_ready("simple")
