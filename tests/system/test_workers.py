"""Servers of several processes: who gets connections, who dies, who replaces whom, and that clients see one server."""

import asyncio
import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import grpc
import grpc.aio
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from support.certificates import SERVER, issue
from support.fleet import IMAGES, RETRY_POLICY, Load, question
from support.onnx_models import classifier, heavy, save
from support.processes import ServerProcess

TWO = ("--workers", "2")
DIGITS = question("digits", IMAGES, versions=(1, 2))


@pytest.fixture
def repository(tmp_path):
    save(classifier(seed=1), tmp_path / "models", "digits")
    return tmp_path / "models"


def publish(root, version):
    """A version that appears whole."""
    path = save(classifier(seed=version), root.parent / "new", "digits", version)
    path.parent.rename(root / "digits" / str(version))
    shutil.rmtree(root.parent / "new")


def workers(server):
    """The processes of the workers, in the order of their start."""
    pid = server.process.pid
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def wait_for_end(pid):
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], 60)[0], "the process should have ended"
        finally:
            os.close(descriptor)


def fetch(server, path):
    try:
        with urllib.request.urlopen(server.http_url + path, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def metric(server, name):
    """The values of a metric, each by those of its labels."""
    _, page = fetch(server, "/metrics")
    found = re.findall(rf"^{name}({{.*}})? (\S+)$", page, re.MULTILINE)
    return {tuple(re.findall('="([^"]*)"', labels)): float(value) for labels, value in found}


def all_are_ready(server):
    return metric(server, "conveyor_workers").get(("ready",)) == 2


def channels(url, count, secure=None, retries=False):
    """So many connections."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if retries:
        options.append(("grpc.service_config", json.dumps(RETRY_POLICY)))
    if secure:
        return [grpc.aio.secure_channel(url, secure, options=options) for _ in range(count)]
    return [grpc.aio.insecure_channel(url, options=options) for _ in range(count)]


@contextlib.asynccontextmanager
async def load(url, connections, retries=False, persistent=True):
    """Two clients without pause on each of so many connections."""
    async with contextlib.AsyncExitStack() as stack:
        opened = channels(url, connections, None, retries)
        loads = [Load("one", channel, [DIGITS], clients=2, persistent=persistent) for channel in opened]
        for one in loads:
            await stack.enter_async_context(one)
        yield loads


async def progress(loads, requests=20):
    await asyncio.gather(*(one.progress(requests) for one in loads))


async def until(what):
    async with asyncio.timeout(60):
        while True:
            if await asyncio.to_thread(what):
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("connections", [2, 8])
async def test_connections_are_spread_evenly(repository, transport, connections):
    if transport == "grpcio":
        pytest.skip("there the system spreads them, by chance")
    with ServerProcess(repository, *TWO) as server:
        async with load(server.grpc_url, connections) as loads:
            await progress(loads)
            share = connections / 2
            assert await asyncio.to_thread(metric, server, "conveyor_worker_connections") == {
                ("1",): share,
                ("2",): share,
            }
            assert await asyncio.to_thread(metric, server, "conveyor_connections") == {(): connections}
            assert not [failure for one in loads for failure in one.failures]


async def test_a_worker_that_is_killed_is_missed_by_nobody_who_retries(repository, transport):
    with ServerProcess(repository, *TWO) as server:
        async with load(server.grpc_url, 8, retries=True) as loads:
            await progress(loads)
            killed, other = workers(server)
            os.kill(killed, signal.SIGKILL)
            await asyncio.to_thread(server.wait_for, r"Worker 1 \(process \d+\) has ended by SIGKILL")
            assert (await asyncio.to_thread(fetch, server, "/readyz"))[0] == 200
            await until(lambda: all_are_ready(server))
            assert await asyncio.to_thread(metric, server, "conveyor_worker_restarts_total") == {(): 1}
            pids = workers(server)
            assert len(pids) == 2
            assert other in pids
            assert killed not in pids
            if transport == "h2":  # the new one gets its share of connections, and nobody is refused for it
                balanced = {("1",): 4, ("2",): 4}
                await until(lambda: metric(server, "conveyor_worker_connections") == balanced)
            await progress(loads)
        # What it had accepted is lost; grpc's own retries, within a tenth of a second, cover what came next.
        assert {failure.code for one in loads for failure in one.failures} <= {"UNAVAILABLE"}
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.exit_code) == 0


async def test_sigterm_under_load_refuses_what_it_does_not_answer_and_leaves_nobody(repository):
    with ServerProcess(repository, *TWO) as server:
        async with load(server.grpc_url, 4, persistent=False) as loads:
            await progress(loads)
            pids = workers(server)
            assert len(pids) == 2
            server.signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.exit_code) == 0
        # Each client went on until it was refused, with the code that a balancer retries elsewhere.
        assert [failure.code for one in loads for failure in one.failures] == ["UNAVAILABLE"] * 8
    for pid in pids:
        wait_for_end(pid)
    assert "Stopped." in server.log[-1]
    assert not [line for line in server.log if "ERROR" in line]


async def test_sighup_under_load_takes_what_is_new_and_fails_nobody(repository, transport):
    with ServerProcess(repository, *TWO) as server:
        async with load(server.grpc_url, 4) as loads:
            await progress(loads)
            before = workers(server)
            publish(repository, 2)
            server.signal(signal.SIGHUP)
            if transport == "h2":
                await asyncio.to_thread(server.wait_for, "All workers are new")
                assert not set(before) & set(workers(server))
            else:
                for _ in before:
                    await asyncio.to_thread(server.wait_for, "digits version 2 is ready")
                assert workers(server) == before
            seen = [one.versions["2"] for one in loads]
            await progress(loads, 50)
            assert all(one.versions["2"] > count for one, count in zip(loads, seen, strict=True))
        assert not [failure for one in loads for failure in one.failures]
        assert await asyncio.to_thread(metric, server, "conveyor_worker_restarts_total") == {(): 0}
        answered = sum(one.answered for one in loads)
        counted = await asyncio.to_thread(metric, server, "conveyor_requests_total")
        assert counted == {("OK", "digits"): answered}, "what the old workers did counts on"


async def test_poll_swaps_in_all_workers_and_fails_nobody(repository):
    flags = ("--model-control", "poll", "--poll-seconds", "0.2")
    with ServerProcess(repository, *TWO, *flags) as server:
        async with load(server.grpc_url, 4) as loads:
            await progress(loads)
            publish(repository, 2)
            for _ in range(2):
                await asyncio.to_thread(server.wait_for, "digits version 2 is ready")
            seen = [one.versions["2"] for one in loads]
            await progress(loads, 50)
            assert all(one.versions["2"] > count for one, count in zip(loads, seen, strict=True))
        assert not [failure for one in loads for failure in one.failures]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_do_not_outlive_their_supervisor(repository, number):
    with ServerProcess(repository, *TWO, "--lame-duck-seconds", "600") as server:
        pids = workers(server)
        if number is not signal.SIGKILL:
            server.signal(signal.SIGTERM)
            server.wait_for("Not ready any more")
            assert fetch(server, "/readyz")[0] == 503
            with triton.InferenceServerClient(server.grpc_url) as client:
                assert not client.is_server_ready()
                assert client.is_model_ready("digits"), "it serves on"
        server.signal(number)  # the second one: it leaves at once
        for pid in pids:
            wait_for_end(pid)
        assert server.exit_code() == (-9 if number is signal.SIGKILL else 128 + number)


def test_workers_that_are_stuck_do_not_outlive_it_either(repository):
    with ServerProcess(repository, *TWO) as server:
        pids = workers(server)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        server.signal(signal.SIGKILL)
        for pid in pids:
            wait_for_end(pid)


def test_what_clients_do_to_models_is_done_by_all(tmp_path):
    save(classifier(), tmp_path, "digits")
    save(classifier(seed=2), tmp_path, "other")
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"no")
    flags = ("--model-control", "explicit", "--load", "digits", "--allow-admin")
    own_connection = {"channel_args": [("grpc.use_local_subchannel_pool", 1)]}
    with ServerProcess(tmp_path, *TWO, *flags) as server, contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(triton.InferenceServerClient(server.grpc_url, **own_connection)) for _ in range(8)
        ]

        def ready(model):
            return {client.is_model_ready(model) for client in clients}

        assert (ready("digits"), ready("other")) == ({True}, {False})
        clients[0].load_model("other")
        assert ready("other") == {True}
        clients[1].unload_model("digits")
        assert ready("digits") == {False}
        with pytest.raises(InferenceServerException, match="is not an ONNX model"):
            clients[2].load_model("broken")
        with pytest.raises(InferenceServerException, match="nowhere"):
            clients[3].load_model("nowhere")
        tensor = triton.InferInput("image", list(IMAGES.shape), "FP32")
        tensor.set_data_from_numpy(IMAGES)
        for client in clients:
            client.infer("other", [tensor])
        for client in clients:
            [statistics] = client.get_inference_statistics("other").model_stats
            assert statistics.inference_stats.success.count == 8
            assert statistics.inference_count == 8 * len(IMAGES)
            index = {(entry.name, entry.state) for entry in client.get_model_repository_index().models}
            assert {("other", "READY"), ("digits", "UNAVAILABLE"), ("broken", "UNAVAILABLE")} <= index
        # A new worker does the same as the others.
        os.kill(workers(server)[0], signal.SIGKILL)
        server.wait_for("has ended by SIGKILL")
        asyncio.run(until(lambda: all_are_ready(server)))
        ready_everywhere = metric(server, "conveyor_model_ready")
        assert ready_everywhere["other", "1"] == 1
        assert ready_everywhere["digits", "1"] == 0


async def test_one_page_has_the_sums_of_all(repository):
    with ServerProcess(repository, *TWO) as server:
        async with load(server.grpc_url, 8) as loads:
            await progress(loads)
        answered = sum(one.answered for one in loads)
        assert await asyncio.to_thread(metric, server, "conveyor_requests_total") == {("OK", "digits"): answered}
        os.kill(workers(server)[0], signal.SIGKILL)  # its last page is the one that we have just seen
        await asyncio.to_thread(server.wait_for, "has ended by SIGKILL")
        await until(lambda: all_are_ready(server))
        assert await asyncio.to_thread(metric, server, "conveyor_requests_total") == {("OK", "digits"): answered}
        durations = await asyncio.to_thread(metric, server, "conveyor_request_duration_seconds_count")
        assert durations == {("digits",): answered}
        memory = await asyncio.to_thread(metric, server, "conveyor_worker_resident_memory_bytes")
        assert set(memory) == {("1",), ("2",)}


def test_readiness_comes_with_the_last_worker(tmp_path):
    for number in range(4):
        save(heavy(), tmp_path, f"model{number}")
    with (
        ServerProcess(tmp_path, *TWO, ready=r"worker \d\] model0 version 1 is ready") as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        slow = workers(server)[1]
        os.kill(slow, signal.SIGSTOP)
        server.wait_for("model3 version 1 is ready")  # of the other one
        assert fetch(server, "/healthz")[0] == 200
        assert fetch(server, "/readyz")[0] == 503
        os.kill(slow, signal.SIGCONT)
        server.wait_for("Ready: model0, model1")
        assert client.is_server_ready()
        assert fetch(server, "/readyz")[0] == 200


async def test_tls_and_a_socket_in_the_file_system(repository, transport, tmp_path):
    root = issue("root", authority=True)
    certificate, key = issue("server", root, purpose=SERVER).write(tmp_path)
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    path = tmp_path / "conveyor.sock"
    if transport == "h2":
        flags += ["--unix-socket", str(path)]
    with ServerProcess(repository, *TWO, *flags) as server:
        opened = channels(server.grpc_url, 4, grpc.ssl_channel_credentials(root.pem))
        if transport == "h2":
            opened += channels(f"unix:{path}", 4)
        for channel in opened:
            async with Load("TLS", channel, [DIGITS], clients=1) as one:
                await one.progress(5)
            assert not one.failures
        server.signal(signal.SIGINT)
        assert await asyncio.to_thread(server.exit_code) == 0
    assert not path.exists()


def test_two_servers_with_workers_do_not_share_a_port(repository):
    with ServerProcess(repository, *TWO) as server:
        port = server.grpc_url.rsplit(":", 1)[1]
        for count in ("1", "2"):
            command = [sys.executable, "-m", "conveyor_server", "--repository", repository, "--workers", count]
            done = subprocess.run(
                [*command, "--grpc-port", port, "--http-port", "0"], capture_output=True, text=True, check=False
            )
            assert done.returncode == 1
            assert done.stderr.splitlines()[-1].startswith(f"conveyor-server: gRPC cannot listen on 127.0.0.1:{port}")


def test_a_start_that_fails_in_the_workers_is_said_once_and_clearly(tmp_path):
    save(classifier(), tmp_path, "digits")
    command = [sys.executable, "-m", "conveyor_server", "--repository", str(tmp_path), *TWO]
    command += ["--grpc-port", "0", "--http-port", "0", "--model-control", "explicit", "--load", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("conveyor-server: ")
    assert "nowhere" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
