import asyncio
import dataclasses

import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from onnx import TensorProto

from conveyor_server.core.batch_queue import QueuePolicy
from conveyor_server.core.errors import (
    Draining,
    InvalidRequest,
    MessageTooLarge,
    ModelNotFound,
    ModelNotReady,
    RequestError,
    ServerFailed,
)
from conveyor_server.engine.batcher import Batcher
from conveyor_server.engine.repository import Repository
from conveyor_server.engine.runtime_options import RuntimeOptions
from conveyor_server.engine.served_model import ModelLoader
from conveyor_server.engine.serving import ServingDefaults
from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.generated import model_config_pb2
from conveyor_server.wire.service import HEALTH_SERVICE, SERVICE, InferenceService
from support.onnx_models import classifier, identity, predict_classifier, save
from support.puppets import FakeCall, PuppetModel, Runs

METADATA = {"conveyor.labels": '["a","b","c","d"]', "conveyor.input.layout": "NHWC"}
IMAGES = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)


class Bench:
    """A service over a repository with a good and a broken model."""

    def __init__(self, root):
        save(classifier(metadata=METADATA), root, "digits", 2)
        save(identity(TensorProto.STRING, [2]), root, "words")
        save(classifier(), root, "broken").write_bytes(b"no")
        self.runs = Runs()
        defaults = ServingDefaults(RuntimeOptions(max_batch_size=50), QueuePolicy(100, 10**6))
        self.repository = Repository(root, ModelLoader(defaults, lambda model: self.runs))
        self.service = InferenceService(self.repository, self.runs)

    async def infer(self, request, **call):
        self.call = FakeCall(**call)
        self.service.model_infer(request if isinstance(request, bytes) else request.SerializeToString(), self.call)
        outcome = await asyncio.wait_for(self.call.outcome, 30)
        return outcome if isinstance(outcome, RequestError) else pb.ModelInferResponse.FromString(outcome)

    async def ask(self, method, request, service=SERVICE):
        return await self.service.rpcs[service][method].call(request.SerializeToString())


@pytest.fixture
async def bench(tmp_path):
    made = Bench(tmp_path)
    await made.repository.load()
    yield made
    made.repository.close()


def infer_request(images=IMAGES, **fields):
    request = pb.ModelInferRequest(**{"model_name": "digits", **fields})
    request.inputs.add(name="image", datatype="FP32", shape=images.shape)
    request.raw_input_contents.append(images.tobytes())
    return request


async def test_an_inference_is_answered_raw_with_model_version_and_id(bench):
    response = await bench.infer(infer_request(id="request 7"))
    assert (response.model_name, response.model_version, response.id) == ("digits", "2", "request 7")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("probabilities", "FP32", [3, 4])
    assert not output.HasField("contents")
    got = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(3, 4)
    np.testing.assert_allclose(got, predict_classifier(IMAGES), atol=1e-6)
    assert bench.runs.finished_requests == [("digits", "OK")]


@pytest.mark.parametrize(
    ("request_", "kind", "text"),
    [
        (infer_request(model_name="nope"), ModelNotFound, "unknown model: 'nope'"),
        (infer_request(model_version="7"), ModelNotFound, "version 7 is not found"),
        (infer_request(model_version="x"), InvalidRequest, "version string 'x'"),
        (infer_request(model_name="broken"), ModelNotReady, "is not an ONNX model"),
        (infer_request(IMAGES[:, :5]), InvalidRequest, "Expected [-1,8,8,1], got [3,5,8,1]"),
        (infer_request(outputs=[{"name": "x"}]), InvalidRequest, "unexpected inference output 'x'"),
        (b"\xff\xff\xff", InvalidRequest, "not a valid inference.ModelInferRequest message"),
    ],
)
async def test_a_bad_inference_is_refused_with_its_reason(bench, request_, kind, text):
    outcome = await bench.infer(request_)
    assert type(outcome) is kind
    assert text in str(outcome)
    assert len(bench.runs.finished_requests) == 1
    assert not bench.runs.rows


async def test_a_failure_of_ours_names_the_request_and_hides_the_details(bench, caplog, monkeypatch):
    def fail(inputs):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(bench.repository.get("digits").model, "run", fail)
    named, anonymous = await bench.infer(infer_request(id="request 7")), await bench.infer(infer_request())
    assert isinstance(named, ServerFailed)
    assert str(named).startswith("[request id: request 7] The runtime failed")
    assert len(str(anonymous).split("]")[0]) > 30, "an id was made up, to be found in the log"
    assert "secret" not in str(named)
    assert "secret detail" in caplog.text
    assert "Request request 7 failed" in caplog.text


async def test_a_cancelled_inference_leaves_the_queue_and_is_counted(bench, monkeypatch):
    puppet = PuppetModel(run_size=1)
    state = bench.repository.find("digits")
    batcher = Batcher(puppet, QueuePolicy(100, 10**6), bench.runs)
    state.served = dataclasses.replace(state.served, batcher=batcher)
    running, waiting = FakeCall(), FakeCall()
    bench.service.model_infer(infer_request(IMAGES[:1]).SerializeToString(), running)
    await puppet.began()
    bench.service.model_infer(infer_request(IMAGES).SerializeToString(), waiting)
    assert batcher.queued_rows == 3
    waiting.deadline = asyncio.get_running_loop().time() - 1
    waiting.cancel()  # as grpc does when the deadline passes
    assert batcher.queued_rows == 0
    running.cancel()  # too late to stop it, and harmless
    puppet.free()
    await batcher.drain()
    assert not waiting.outcome.done()
    assert not running.outcome.done()
    assert bench.runs.finished_requests == [("digits", "DEADLINE_EXCEEDED"), ("digits", "CANCELLED")]


async def test_draining_refuses_with_a_reason(bench):
    await bench.repository.drain()
    assert isinstance(await bench.infer(infer_request()), Draining)


async def test_metadata_of_a_model(bench):
    response = await bench.ask("ModelMetadata", pb.ModelMetadataRequest(name="digits"))
    assert (response.name, list(response.versions), response.platform) == ("digits", ["2"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in response.inputs] == [("image", "FP32", [-1, 8, 8, 1])]
    assert [(t.name, t.datatype, list(t.shape)) for t in response.outputs] == [("probabilities", "FP32", [-1, 4])]


async def test_configuration_of_a_model(bench):
    config = (await bench.ask("ModelConfig", pb.ModelConfigRequest(name="digits", version="2"))).config
    assert (config.name, config.platform, config.max_batch_size) == ("digits", "onnxruntime_onnx", 50)
    assert list(config.input[0].dims) == [8, 8, 1]
    assert config.input[0].data_type == model_config_pb2.TYPE_FP32
    assert config.input[0].format == model_config_pb2.ModelInput.FORMAT_NHWC
    assert list(config.output[0].dims) == [4]
    assert config.HasField("dynamic_batching")
    assert {key: value.string_value for key, value in config.parameters.items()} == METADATA


async def test_configuration_of_a_model_without_a_batch_axis(bench):
    config = (await bench.ask("ModelConfig", pb.ModelConfigRequest(name="words"))).config
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2])
    assert config.input[0].data_type == model_config_pb2.TYPE_STRING
    assert not config.dynamic_batching.preferred_batch_size


async def test_readiness_of_server_and_models(bench):
    async def ready(name, version=""):
        return (await bench.ask("ModelReady", pb.ModelReadyRequest(name=name, version=version))).ready

    assert (await bench.ask("ServerLive", pb.ServerLiveRequest())).live
    assert (await bench.ask("ServerReady", pb.ServerReadyRequest())).ready
    assert [await ready("digits"), await ready("digits", "2"), await ready("digits", "1")] == [True, True, False]
    assert [await ready("broken"), await ready("nope")] == [False, False]
    assert isinstance(await bench.ask("ModelReady", pb.ModelReadyRequest(name="digits", version="x")), InvalidRequest)
    bench.service.leaving = True
    assert not (await bench.ask("ServerReady", pb.ServerReadyRequest())).ready
    assert not isinstance(await bench.infer(infer_request()), RequestError), "it serves on until it drains"


async def test_health_of_server_and_models(bench):
    async def health(service):
        outcome = await bench.ask("Check", health_pb2.HealthCheckRequest(service=service), HEALTH_SERVICE)
        return outcome if isinstance(outcome, RequestError) else outcome.ServingStatus.Name(outcome.status)

    assert [await health(name) for name in ("", SERVICE, "digits")] == ["SERVING"] * 3
    assert await health("broken") == "NOT_SERVING"
    assert isinstance(await health("nope"), ModelNotFound)
    bench.service.leaving = True
    assert [await health(name) for name in ("", SERVICE, "digits")] == ["NOT_SERVING"] * 3


async def test_a_server_that_has_not_loaded_yet_is_alive_and_not_ready(tmp_path):
    bench = Bench(tmp_path)
    assert (await bench.ask("ServerLive", pb.ServerLiveRequest())).live
    assert not (await bench.ask("ServerReady", pb.ServerReadyRequest())).ready
    assert "still loading" in str(await bench.infer(infer_request()))


async def test_metadata_of_the_server_names_the_provider_in_use(bench):
    response = await bench.ask("ServerMetadata", pb.ServerMetadataRequest())
    assert response.name == "conveyor"
    assert "execution_provider(CPUExecutionProvider)" in response.extensions


async def test_index_of_the_repository(bench):
    async def index(**fields):
        response = await bench.ask("RepositoryIndex", pb.RepositoryIndexRequest(**fields))
        return {model.name: (model.version, model.state, model.reason[:15]) for model in response.models}

    ready = {"digits": ("2", "READY", ""), "words": ("1", "READY", "")}
    assert await index(ready=True) == ready
    assert await index() == {"broken": ("1", "UNAVAILABLE", "model.onnx is n"), **ready}
    outcome = await bench.ask("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="other"))
    assert isinstance(outcome, InvalidRequest)


async def test_a_bug_in_a_handler_is_logged_and_not_told(bench, caplog, monkeypatch):
    monkeypatch.setattr(bench.repository, "find", lambda *_: 1 / 0)
    outcome = await bench.ask("ModelReady", pb.ModelReadyRequest(name="digits"))
    assert isinstance(outcome, ServerFailed)
    assert "division" not in str(outcome)
    assert "This is a bug" in caplog.text
    monkeypatch.setattr(bench.repository, "get", lambda *_: 1 / 0)
    assert isinstance(await bench.infer(infer_request()), ServerFailed)


async def test_a_request_that_no_model_could_take_is_refused_before_it_is_parsed(tmp_path):
    save(classifier(), tmp_path, "digits")
    runs = Runs()
    defaults = ServingDefaults(RuntimeOptions(max_batch_size=50), QueuePolicy(100, 10**6))
    repository = Repository(tmp_path, ModelLoader(defaults, lambda model: runs))
    service = InferenceService(repository, runs)
    assert service.max_request_bytes is None, "nothing is known before models are loaded"
    await repository.load()
    assert service.max_request_bytes == 50 * 8 * 8 * 4 + 2**20

    async def ask(size):
        call = FakeCall()
        service.model_infer(b"\xff" * size, call)
        return await call.outcome

    assert isinstance(await ask(service.max_request_bytes), InvalidRequest), "it was parsed, and is no message"
    refused = await ask(service.max_request_bytes + 1)
    assert isinstance(refused, MessageTooLarge)
    assert (
        str(refused) == "The request has 1061377 bytes; no model here takes more than 1061376, at its max_batch_size."
    )
    assert runs.finished_requests[-1] == ("", "RESOURCE_EXHAUSTED")
    save(identity(TensorProto.STRING), tmp_path, "words")
    await repository.load()
    assert service.max_request_bytes is None, "strings have no largest"
    await repository.unload_model("words")
    assert service.max_request_bytes == 50 * 8 * 8 * 4 + 2**20
    repository.close()


async def test_a_flood_of_empty_fields_is_refused_before_it_is_parsed(bench):
    """Sixty megabytes of these would take seconds and gigabytes."""
    empty_inputs = infer_request().SerializeToString() + b"\x2a\x00" * 2**15
    refused = await bench.infer(empty_inputs)
    assert isinstance(refused, MessageTooLarge)
    assert str(refused) == "The request has more than 4096 inputs, outputs and parameters."
    few = await bench.infer(infer_request().SerializeToString() + b"\x2a\x00" * 2**14)
    assert isinstance(few, InvalidRequest), "small ones are parsed"


async def test_requests_without_tensors_are_small(bench):
    request = pb.ModelReadyRequest(name="x" * 2**22)
    refused = await bench.ask("ModelReady", request)
    assert isinstance(refused, MessageTooLarge)
    assert str(refused) == "The request has 4194309 bytes; ModelReadyRequest has 4194304 at most."
