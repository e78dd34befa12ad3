"""Tokens of a real server: who may call what, over which way in, and what becomes of a token that is taken out."""

import asyncio
import hashlib
import re
import subprocess
import sys
import urllib.error
import urllib.request

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.wire.service import SERVICE
from support.certificates import issue
from support.onnx_models import classifier, predict_classifier, save
from support.processes import ServerProcess
from support.relay import Relay

IMAGES = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
TOKENS = {name: f"conveyor_{name}-{'0123456789' * 4}" for name in ("infer", "read", "admin", "all")}
LOCKED, FORBIDDEN = "UNAUTHENTICATED", "PERMISSION_DENIED"
NEEDS = {
    "ModelInfer": "infer",
    "ModelStreamInfer": "infer",
    "ServerMetadata": "read",
    "ModelMetadata": "read",
    "ModelConfig": "read",
    "ModelStatistics": "read",
    "RepositoryIndex": "read",
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
    "ServerLive": None,
    "ServerReady": None,
    "ModelReady": None,
}


def line(name, scopes=None):
    return f"{name} {scopes or name} sha256:{hashlib.sha256(TOKENS[name].encode()).hexdigest()}\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(classifier(), root, "digits")
    return root


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text("# for tests\n" + line("infer") + line("read") + line("admin") + line("all", "infer,read,admin"))
    return path


@pytest.fixture(scope="module")
def server(transport, repository, file):
    flags = ["--tokens", str(file), "--model-control", "explicit", "--load", "*", "--allow-admin"]
    with ServerProcess(repository, *flags, "--access-log", "--log-level", "debug") as process:
        yield process


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        yield channel


def header(name):
    return (("authorization", f"Bearer {TOKENS.get(name, name)}"),) if name else ()


REQUESTS = {
    "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="digits"),
    "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="none"),
    **{method: pb.ModelReadyRequest(name="digits") for method in NEEDS if method.startswith("Model")},
}


def request(method):
    """A good one."""
    if not method.endswith("Infer"):
        return REQUESTS[method].SerializeToString() if method in REQUESTS else b""
    message = pb.ModelInferRequest(model_name="digits", raw_input_contents=[IMAGES.tobytes()])
    message.inputs.add(name="image", datatype="FP32", shape=IMAGES.shape)
    return message.SerializeToString()


def ask(channel, method, token=None):
    """The code that a call ends with."""
    path, metadata = f"/{SERVICE}/{method}", header(token)
    try:
        if method == "ModelStreamInfer":
            list(channel.stream_stream(path)(iter([request(method)]), timeout=30, metadata=metadata))
        else:
            channel.unary_unary(path)(request(method), timeout=30, metadata=metadata)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def get(server, path, token=None):
    """Status and headers over HTTP."""
    asked = urllib.request.Request(server.http_url + path, headers=dict(header(token)))
    try:
        with urllib.request.urlopen(asked, timeout=30) as response:
            return response.status, dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


@pytest.mark.parametrize("method", NEEDS)
def test_each_call_needs_its_scope(channel, method):
    fine = {"NOT_FOUND"} if method == "RepositoryModelUnload" else {"OK"}
    scope = NEEDS[method]
    for token in (None, "wrong", "infer", "read", "admin", "all"):
        code = ask(channel, method, token)
        if scope is None or token in (scope, "all"):
            assert code in fine, token
        else:
            assert code == (LOCKED if token in (None, "wrong") else FORBIDDEN), token


def test_a_call_that_is_not_served_is_unimplemented_for_all(channel):
    assert ask(channel, "TraceSetting") == ask(channel, "TraceSetting", "all") == "UNIMPLEMENTED"


def test_health_is_open_and_reflection_is_not(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "digits"):
        status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    assert next(health.Watch(health_pb2.HealthCheckRequest(), timeout=30)).status
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    for token, expected in (("read", None), ("infer", FORBIDDEN), (None, LOCKED)):
        answers = reflection.ServerReflectionInfo(iter([question]), timeout=30, metadata=header(token))
        if expected is None:
            assert SERVICE in str(next(answers))
        else:
            with pytest.raises(grpc.RpcError) as caught:
                next(answers)
            assert caught.value.code().name == expected


def test_a_refusal_is_a_status_without_a_message(server):
    """Balancers and clients treat it as an answer only then; and the texts tell what to do, not what was wrong."""
    with grpc.insecure_channel(server.grpc_url) as channel:
        for token, text in [(None, "This server wants a token, in the header"), ("x", "The token is not known")]:
            call = channel.unary_stream(f"/{SERVICE}/ModelInfer")(request("ModelInfer"), metadata=header(token))
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            assert caught.value.details().startswith(text)


def test_metrics_need_read_and_probes_nothing(server):
    assert get(server, "/healthz")[0] == get(server, "/readyz")[0] == 200
    status, headers = get(server, "/metrics")
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert get(server, "/metrics", "wrong")[0] == 401
    assert get(server, "/metrics", "infer")[0] == 403
    assert get(server, "/metrics", "read")[0] == 200


def test_tritonclient_sends_tokens(server):
    tensor = triton.InferInput("image", list(IMAGES.shape), "FP32")
    tensor.set_data_from_numpy(IMAGES)
    with triton.InferenceServerClient(server.grpc_url) as client:
        headers = dict(header("infer"))
        answer = client.infer("digits", [tensor], headers=headers, client_timeout=30).as_numpy("probabilities")
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer("digits", [tensor], client_timeout=30)
    assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
    np.testing.assert_allclose(answer, predict_classifier(IMAGES), atol=1e-5)


def test_the_log_names_callers_and_no_log_has_a_token(server, channel):
    assert ask(channel, "ModelInfer", "all") == "OK"
    assert ask(channel, "ModelStreamInfer", "infer") == "OK"
    ask(channel, "ModelInfer", "a-guess")
    server.wait_for("^.*all: ModelInfer model=digits version=1 rows=5 code=OK")
    server.wait_for("^.*infer: ModelStreamInfer model=digits version=1 rows=5 code=OK")
    text = "\n".join(server.log)
    assert not [token for token in [*TOKENS.values(), "a-guess"] if token in text]
    assert "Traceback" not in text


def test_denied_calls_are_counted(server, channel):
    def counts():
        asked = urllib.request.Request(f"{server.http_url}/metrics", headers=dict(header("read")))
        with urllib.request.urlopen(asked, timeout=30) as response:
            page = response.read().decode()
        return [
            float(re.search(rf'^conveyor_denied_calls_total{{code="{code}"}} (\S+)', page, re.M)[1])
            for code in (LOCKED, FORBIDDEN)
        ]

    before = counts()
    for token in (None, "x", "read"):
        ask(channel, "ModelInfer", token)
    assert [after - start for start, after in zip(before, counts(), strict=True)] == [2, 1]


async def test_who_may_not_call_is_refused_before_the_body_is_read(server):
    async with Relay(server.grpc_url) as relay, grpc.aio.insecure_channel(relay.url) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{SERVICE}/ModelInfer")(bytes(32 * 2**20), timeout=30)
        assert caught.value.code().name == LOCKED
        assert relay.received < 16 * 2**20, "the rest was not asked for"


def test_headers_of_any_kind_are_no_token(server):
    """What no honest client could send: raw bytes, twice, huge."""
    with grpc.insecure_channel(server.grpc_url) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for metadata in [
            (("authorization", "Bearer " + "x" * 8000),),
            (("authorization", ""), ("authorization", f"Bearer {TOKENS['all']}")),
            (("authorization-bin", b"Bearer \xff"),),
        ]:
            with pytest.raises(grpc.RpcError) as caught:
                call(request("ModelInfer"), timeout=30, metadata=metadata)
            assert caught.value.code().name == LOCKED
        with pytest.raises(grpc.RpcError) as caught:
            call(request("ModelInfer"), timeout=30, metadata=(("authorization", "x" * 20_000),))
        assert caught.value.code().name == "RESOURCE_EXHAUSTED", "headers have a limit"
        assert ask(channel, "ModelInfer", "all") == "OK"


async def test_what_the_file_says_counts_within_seconds_for_calls_under_way_too(repository, tmp_path):
    path = tmp_path / "tokens"
    path.write_text(line("infer"))
    with ServerProcess(repository, "--tokens", str(path)) as server:
        async with grpc.aio.insecure_channel(server.grpc_url) as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")

            async def code(name):
                try:
                    await call(request("ModelInfer"), timeout=30, metadata=header(name))
                except grpc.aio.AioRpcError as error:
                    return error.code().name
                return "OK"

            async def until(**wanted):
                async with asyncio.timeout(60):
                    while True:
                        if {name: await code(name) for name in wanted} == wanted:
                            return
                        await asyncio.sleep(0.02)

            await until(infer="OK", all=LOCKED)
            path.write_text(line("infer") + line("all", "infer,read"))
            await until(infer="OK", all="OK")
            path.write_text("nonsense\n")  # keeps what was
            await asyncio.to_thread(server.wait_for, "Tokens: what was read before stays in use. .*line 1: expected")
            await until(infer="OK", all="OK")
            path.write_text(line("all", "infer,read"))
            await until(infer=LOCKED, all="OK")
            path.write_text("# nobody\n")
            await until(infer=LOCKED, all=LOCKED)


def test_the_command_makes_a_token_that_the_server_knows(repository, tmp_path):
    path = tmp_path / "tokens"
    command = [sys.executable, "-m", "conveyor_server", "token", "mine", "--scope", "infer", "--append", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (token,) = done.stdout.splitlines()
    assert done.stderr == ""
    assert token not in path.read_text()
    authority = issue("root", authority=True)
    certificate, key = issue("server", authority).write(tmp_path)
    flags = ["--tokens", str(path), "--tls-certificate", str(certificate), "--tls-key", str(key)]
    with ServerProcess(repository, *flags) as server:
        secure = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(authority.pem), grpc.access_token_call_credentials(token)
        )
        with grpc.secure_channel(server.grpc_url, secure) as channel:
            channel.unary_unary(f"/{SERVICE}/ModelInfer")(request("ModelInfer"), timeout=30)
