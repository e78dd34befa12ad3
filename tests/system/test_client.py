"""The client library over real connections: what it survives, what it refuses, and what it says then."""

import asyncio
import importlib.util
import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from conveyor_server.client import (
    AccessDenied,
    AsyncClient,
    CallError,
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    NotSupported,
    RetryPolicy,
    ServerError,
    Unavailable,
    Unreachable,
)
from conveyor_server.client.channel_options import RECONNECT, ROUND_ROBIN
from conveyor_server.client.errors import error_of
from support.certificates import issue
from support.grpc_puppets import GrpcPuppet
from support.onnx_models import classifier, predict_classifier, save
from support.processes import ServerProcess

X = np.ones((1, 2), np.float32)
IMAGES = np.random.default_rng(0).random((400, 8, 8, 1), np.float32)
AUTHORITY, CLIENTS, STRANGERS = (issue(name, authority=True) for name in ("servers", "clients", "strangers"))


@pytest.fixture
def puppet():
    with GrpcPuppet() as server:
        yield server


@pytest.fixture
def threads():
    with ThreadPoolExecutor(64) as pool:
        yield pool


def predict(url, **options):
    with Client(url, **{"timeout": 30.0, "retry": None, **options}) as client:
        return client.predict("double", X)


async def predict_async(url, **options):
    async with AsyncClient(url, **{"timeout": 30.0, "retry": None, **options}) as client:
        return await client.predict("double", X)


def both(url, **options):
    """What both clients answer; or the type of the error, which must be the same, and what one of them says."""
    outcomes = []
    for ask in (lambda: predict(url, **options), lambda: asyncio.run(predict_async(url, **options))):
        try:
            outcomes.append((ask().tolist(), ""))
        except CallError as error:
            outcomes.append((type(error), error.details))
    (answer, details), (other, _) = outcomes
    assert answer == other
    return (answer, details) if details else answer


def tls_server(*, host="localhost", clients=None):
    identity = issue("server", AUTHORITY, also=host)
    credentials = grpc.ssl_server_credentials(
        [(identity.key_pem, identity.pem)], clients and clients.pem, require_client_auth=clients is not None
    )
    return GrpcPuppet(credentials=credentials)


def under_a_name(url):
    return url.replace("127.0.0.1", "localhost")


def test_tls_with_a_certificate_in_a_file(tmp_path):
    file = tmp_path / "authority.pem"
    file.write_bytes(AUTHORITY.pem)
    with tls_server() as server:
        assert both(server.url, root_certificates=file) == [[2, 2]]
        assert both(under_a_name(server.url), root_certificates=str(file)) == [[2, 2]]


def test_tls_under_another_name_than_the_address():
    with tls_server(host="models.example.com") as server:
        url, options = under_a_name(server.url), {"root_certificates": AUTHORITY.pem}
        assert both(url, **options)[0] is Unreachable
        assert both(url, **options, server_name="models.example.com") == [[2, 2]]


def test_who_is_not_trusted_gets_nothing(puppet):
    with tls_server() as server:
        kind, details = both(server.url, root_certificates=STRANGERS.pem)
        assert kind is Unreachable
        assert "certificate verify failed" in details.lower().replace("_", " ")
        assert both(server.url, tls=True)[0] is Unreachable  # the system's authorities do not know it
        assert both(server.url)[0] in (Unreachable, Unavailable)
        assert server.seen == []
    assert both(puppet.url, root_certificates=AUTHORITY.pem)[0] is Unreachable


def test_a_server_that_demands_certificates():
    with tls_server(clients=CLIENTS) as server:
        options = {"root_certificates": AUTHORITY.pem}
        known, stranger = issue("me", CLIENTS), issue("me", STRANGERS)
        assert both(server.url, **options, certificate=known.pem, key=known.key_pem) == [[2, 2]]
        with pytest.raises(Unavailable):
            predict(server.url, **options)
        with pytest.raises(Unavailable):
            predict(server.url, **options, certificate=stranger.pem, key=stranger.key_pem)


def test_a_real_server_with_tls_and_tokens(tmp_path):
    save(classifier(), tmp_path / "models", "digits")
    certificate, key = issue("server", AUTHORITY).write(tmp_path / "server")
    tokens = {}
    for name, scopes in (("full", ["infer", "read"]), ("narrow", ["infer"])):
        command = [sys.executable, "-m", "conveyor_server", "token", name, "--append", str(tmp_path / "tokens")]
        command += [word for scope in scopes for word in ("--scope", scope)]
        made = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        tokens[name] = made.stdout.split()[-1]
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key), "--tokens", str(tmp_path / "tokens")]
    with ServerProcess(tmp_path / "models", *flags) as server:

        def client(token):
            return Client(server.grpc_url, root_certificates=AUTHORITY.pem, token=token, timeout=30)

        with client(tokens["full"]) as full:
            np.testing.assert_allclose(full.predict("digits", IMAGES[:9]), predict_classifier(IMAGES[:9]), atol=1e-5)
            with pytest.raises(AccessDenied, match="PERMISSION_DENIED: The token 'full' lacks the scope 'admin'"):
                full.load("digits")
        with client(tokens["narrow"]) as narrow:
            assert narrow.ready()
            with pytest.raises(AccessDenied, match="lacks the scope 'read'"):
                narrow.predict("digits", IMAGES[:1])
        for wrong in (None, "wrong"):
            with client(wrong) as stranger, pytest.raises(AccessDenied, match="UNAUTHENTICATED"):
                stranger.predict("digits", IMAGES[:1])
        with Client(server.grpc_url, retry=None) as plain, pytest.raises(Unavailable):
            plain.live()


def test_a_token_is_asked_for_each_call(puppet):
    tokens = iter(["one", "two", "three", "four"])
    with Client(puppet.url, token=lambda: next(tokens)) as client:
        client.predict("double", X)
        client.predict("double", X)
    assert [seen.metadata["authorization"] for seen in puppet.seen] == ["Bearer three", "Bearer four"]


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED"])
def test_a_wrong_token_is_told_and_not_shown(puppet, code):
    puppet.puppet.failures = [error_of(code, "no", "")]
    with pytest.raises(AccessDenied, match="Give the client a `token`") as caught:
        predict(puppet.url, token="secret")
    assert "secret" not in f"{caught.value}{caught.value.__cause__}"


def test_a_unix_socket(tmp_path):
    with GrpcPuppet(f"unix:{tmp_path}/puppet.sock") as server:
        assert both(server.url, token="secret") == [[2, 2]]


def test_calls_spread_over_connections(puppet, threads):
    with Client(puppet.url, connections=3) as client:
        client.wait_ready()
        client.describe("double")
        puppet.holding.set()
        calls = [threads.submit(client.predict, "double", X) for _ in range(12)]
        for _ in calls:
            puppet.began.acquire(timeout=30)
        puppet.permits.release(12)
        for call in calls:
            call.result(30)
    assert sorted(Counter(seen.peer for seen in puppet.seen).values()) == [4, 4, 4]


async def test_calls_of_asyncio_spread_over_connections(puppet):
    async with AsyncClient(puppet.url, connections=3) as client:
        await client.wait_ready()
        await client.describe("double")
        puppet.holding.set()
        calls = [asyncio.create_task(client.predict("double", X)) for _ in range(12)]
        for _ in calls:
            await asyncio.to_thread(puppet.began.acquire, timeout=30)
        puppet.permits.release(12)
        await asyncio.gather(*calls)
    assert sorted(Counter(seen.peer for seen in puppet.seen).values()) == [4, 4, 4]


def test_a_fleet_gets_calls_in_turn_and_who_is_not_ready_none():
    with GrpcPuppet() as one, GrpcPuppet() as two, GrpcPuppet() as three:
        three.serving = False
        patient = RetryPolicy(max_attempts=1000)
        with Client(f"ipv4:{one.url},{two.url},{three.url}", timeout=60, retry=patient) as client:
            while not (one.seen and two.seen):  # until both are connected
                client.predict("double", X)
            before = len(one.seen), len(two.seen)
            for _ in range(20):
                client.predict("double", X)
            assert (len(one.seen) - before[0], len(two.seen) - before[1], len(three.seen)) == (10, 10, 0)
            one.stop()
            for _ in range(20):
                client.predict("double", X)
            three.serving = True
            two.stop()
            for _ in range(20):
                client.predict("double", X)
            assert len(three.seen) >= 20


def test_the_documented_client_and_this_one_balance_alike():
    file = Path(__file__).parents[2] / "docs" / "round_robin.py"
    specification = importlib.util.spec_from_file_location("round_robin", file)
    documented = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(documented)
    options = dict(documented.OPTIONS)
    config = json.loads(options["grpc.service_config"])
    assert {name: config[name] for name in ROUND_ROBIN} == ROUND_ROBIN
    assert {name: options[name] for name in RECONNECT} == RECONNECT


def test_the_server_is_told_the_deadline(puppet):
    with Client(puppet.url, timeout=5.0) as client:
        client.predict("double", X)
        client.predict("double", X, timeout=60.0)
    first, second = (seen.seconds_left for seen in puppet.seen)
    assert 0 < first <= 5.1
    assert 5.1 < second <= 60.1


def test_a_deadline_ends_the_call(puppet):
    with Client(puppet.url) as client:
        client.describe("double")
        puppet.holding.set()
        with pytest.raises(DeadlineExceeded, match="DEADLINE_EXCEEDED"):
            client.predict("double", X, timeout=0.05)


@pytest.mark.parametrize(("pushback", "attempts"), [("0", 3), ("-1", 1), ("soon", 1), ("60000", 1)])
def test_the_servers_push_back_is_obeyed(pushback, attempts):
    with GrpcPuppet(pushback=pushback) as server:
        server.puppet.failures = [error_of("UNAVAILABLE", "full", "") for _ in range(9)]
        with pytest.raises(Unavailable, match="UNAVAILABLE: full"):
            predict(server.url, retry=RetryPolicy(max_attempts=3))
        assert len(server.seen) == attempts


async def test_refusals_are_asked_again(puppet):
    puppet.puppet.failures = [error_of("UNAVAILABLE", "full", "") for _ in range(2)]
    async with AsyncClient(puppet.url) as client:
        assert (await client.predict("double", X)).tolist() == [[2, 2]]
    assert len(puppet.seen) == 3


def test_a_server_that_comes_back_is_found_again():
    with GrpcPuppet() as server:
        client = Client(server.url, retry=RetryPolicy(max_attempts=1000), timeout=60)
        client.predict("double", X)
    with client:
        with pytest.raises(Unreachable, match="Is a server running there"):
            client.live()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.predict, "double", X)
            with GrpcPuppet(server.url):
                assert waiting.result(60).tolist() == [[2, 2]]


def test_a_server_that_is_not_there_is_told_soon():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{free.getsockname()[1]}"
    kind, details = both(url, retry=RetryPolicy(initial_backoff=0.001))
    assert kind is Unreachable
    assert "Connection refused" in details
    with Client(url) as client, pytest.raises(Unreachable, match="Connection refused"):
        client.wait_ready(timeout=0.3)


@pytest.mark.parametrize("bytes_sent", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 100])
def test_a_peer_that_speaks_something_else_is_no_mystery(bytes_sent):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopping = threading.Event()

        def serve():
            while not stopping.is_set():
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(bytes_sent)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            url = f"127.0.0.1:{listener.getsockname()[1]}"
            with pytest.raises(Unavailable):
                predict(url)
        finally:
            stopping.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()


def test_an_answer_that_cannot_be_read_is_the_servers_fault(puppet):
    puppet.junk = b"\xff\xff"
    assert both(puppet.url)[0] is ServerError


def test_what_a_server_does_not_have_is_said(puppet):
    with Client(puppet.url) as client:
        with pytest.raises(NotSupported):
            client.models()
        with pytest.raises(NotSupported):
            client.load("double")


def test_a_closed_client_says_so(puppet):
    client = Client(puppet.url)
    client.predict("double", X)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="This client is closed"):
        client.predict("double", X)

    async def closed():
        client = AsyncClient(puppet.url)
        await client.predict("double", X)
        await client.close()
        with pytest.raises(RuntimeError, match="This client is closed"):
            await client.predict("double", X)
        unused = AsyncClient(puppet.url)
        await unused.close()
        with pytest.raises(RuntimeError, match="This client is closed"):
            await unused.live()

    asyncio.run(closed())


def test_an_asyncio_client_belongs_to_its_loop(puppet):
    client = AsyncClient(puppet.url)
    with asyncio.Runner() as runner:
        runner.run(client.predict("double", X))
        with pytest.raises(RuntimeError, match="event loop of its first call"):
            asyncio.run(client.predict("double", X))
        runner.run(client.close())


@pytest.mark.parametrize("gather_rows", [0, 8])
def test_closing_ends_the_calls_under_way(puppet, threads, gather_rows):
    client = Client(puppet.url, gather_rows=gather_rows)
    client.describe("double")
    puppet.holding.set()
    calls = [threads.submit(client.predict, "double", X) for _ in range(4)]
    puppet.began.acquire(timeout=30)
    client.close()
    for call in calls:
        with pytest.raises((Cancelled, RuntimeError), match="closed"):
            call.result(30)


@pytest.mark.parametrize("gather_rows", [0, 8])
async def test_closing_ends_the_calls_of_asyncio_under_way(puppet, gather_rows):
    client = AsyncClient(puppet.url, gather_rows=gather_rows)
    await client.describe("double")
    puppet.holding.set()
    calls = [asyncio.create_task(client.predict("double", X)) for _ in range(4)]
    await asyncio.to_thread(puppet.began.acquire, timeout=30)
    await client.close()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, Cancelled | RuntimeError)
        assert "closed" in str(outcome)


@pytest.mark.parametrize("gather_rows", [0, 8])
async def test_a_cancelled_call_is_cancelled_at_the_server(puppet, gather_rows):
    async with AsyncClient(puppet.url, gather_rows=gather_rows) as client:
        await client.describe("double")
        puppet.holding.set()
        call = asyncio.create_task(client.predict("double", X))
        await asyncio.to_thread(puppet.began.acquire, timeout=30)
        assert not puppet.cancelled.is_set()
        call.cancel()
        assert await asyncio.to_thread(puppet.cancelled.wait, 30)
        with pytest.raises(asyncio.CancelledError):
            await call
        puppet.holding.clear()
        assert (await client.predict("double", X)).tolist() == [[2, 2]]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(classifier(), root, "digits")
    with ServerProcess(root) as process:
        yield process


@pytest.mark.parametrize("delay", [0.0, 0.002])
def test_a_real_server_answers_threads_that_gather(server, threads, delay):
    expected = predict_classifier(IMAGES)
    with Client(server.grpc_url, gather_rows=16, gather_delay=delay, connections=2, timeout=60) as client:
        client.wait_ready("digits")
        (before,) = client.statistics("digits")

        def ask(number):
            rows = slice(number, number + number % 3 + 1)
            np.testing.assert_allclose(client.predict("digits", IMAGES[rows]), expected[rows], atol=1e-5)

        list(threads.map(ask, range(380)))
        (after,) = client.statistics("digits")
    assert after.rows - before.rows == sum(number % 3 + 1 for number in range(380))
    assert after.requests - before.requests < 380


async def test_a_real_server_answers_tasks_that_gather(server):
    expected = predict_classifier(IMAGES)
    async with AsyncClient(server.grpc_url, gather_rows=32, timeout=60) as client:

        async def ask(number):
            answer = await client.predict("digits", IMAGES[number : number + 1])
            np.testing.assert_allclose(answer, expected[number : number + 1], atol=1e-5)

        (before,) = await client.statistics("digits")
        await asyncio.gather(*(ask(number) for number in range(400)))
        (after,) = await client.statistics("digits")
        wrong = [asyncio.create_task(client.predict("digits", IMAGES[:1, :4])) for _ in range(3)]
        for outcome in await asyncio.gather(*wrong, return_exceptions=True):
            assert isinstance(outcome, InvalidRequest)
    assert after.rows - before.rows == 400
    assert after.requests - before.requests <= 20


def test_the_library_is_light():
    code = "import sys, conveyor_server.client; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"onnxruntime", "onnx", "aiohttp", "prometheus_client", "cyclopts", "rich", "PIL"}
    parts = {name for name in done.stdout.split() if name.startswith("conveyor_server.")}
    allowed = ("conveyor_server.client", "conveyor_server.core", "conveyor_server.generated")
    assert all(name.startswith(allowed) for name in parts), parts
