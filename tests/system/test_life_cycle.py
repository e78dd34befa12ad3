"""Start, drain and stop of real processes, with real signals."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from conveyor_server.client import CallError, Client
from support.onnx_models import classifier, heavy, predict_classifier, save
from support.processes import ServerProcess

IMAGES = np.random.default_rng(0).random((64, 8, 8, 1), np.float32)
EXPECTED = predict_classifier(IMAGES)


@pytest.fixture
def repository(tmp_path):
    save(classifier(), tmp_path, "digits")
    return tmp_path


def run_server(*flags):
    command = [sys.executable, "-m", "conveyor_server", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class Load:
    """Clients that ask without pause until the server is gone, and remember how each request ended."""

    def __init__(self, url, clients=16):
        self.url, self.clients = url, clients
        self.outcomes = []  # (seconds at which it was sent, seconds at which it ended, status)
        self.first = asyncio.Event()

    async def run(self):
        async with triton_aio.InferenceServerClient(self.url) as client:
            await asyncio.gather(*(self._ask(client, number) for number in range(self.clients)))

    async def _ask(self, client, number):
        tensor = InferInput("image", [number + 1, 8, 8, 1], "FP32")
        tensor.set_data_from_numpy(IMAGES[: number + 1])
        while True:
            sent = time.monotonic()
            try:
                result = await client.infer("digits", [tensor], client_timeout=30)
            except InferenceServerException as error:
                self.outcomes.append((sent, time.monotonic(), error.status().removeprefix("StatusCode.")))
                return
            np.testing.assert_allclose(result.as_numpy("probabilities"), EXPECTED[: number + 1], atol=1e-5)
            self.outcomes.append((sent, time.monotonic(), "OK"))
            if len(self.outcomes) > 200:
                self.first.set()


@pytest.mark.parametrize("lame_duck", ["0", "0.5"])
async def test_sigterm_under_load_answers_every_accepted_request_and_exits_0(repository, lame_duck):
    with ServerProcess(repository, "--lame-duck-seconds", lame_duck) as server:
        load = Load(server.grpc_url)
        running = asyncio.create_task(load.run())
        await asyncio.wait_for(load.first.wait(), 60)
        asked = time.monotonic()
        server.signal(signal.SIGTERM)
        await asyncio.wait_for(running, 60)
        assert await asyncio.to_thread(server.exit_code) == 0
    statuses = [status for _, _, status in load.outcomes]
    # Each client went on until it was refused, once, with the code that a balancer retries elsewhere.
    assert set(statuses) == {"OK", "UNAVAILABLE"}
    assert statuses.count("UNAVAILABLE") == load.clients
    in_lame_duck = [status for sent, _, status in load.outcomes if asked < sent < asked + float(lame_duck) * 0.8]
    assert set(in_lame_duck) <= {"OK"}
    if lame_duck != "0":
        assert len(in_lame_duck) > 50, "the server must go on serving while balancers turn away"
    assert "Stopped." in server.log[-1]


async def test_requests_in_a_long_queue_are_answered_before_the_exit(tmp_path):
    save(heavy(), tmp_path, "heavy")
    with ServerProcess(tmp_path, "--threads", "1") as server:
        async with triton_aio.InferenceServerClient(server.grpc_url) as client:
            data = np.ones((64, 1024), np.float32)
            tensor = InferInput("input", [64, 1024], "FP32")
            tensor.set_data_from_numpy(data)
            calls = [asyncio.create_task(client.infer("heavy", [tensor])) for _ in range(40)]
            while await asyncio.to_thread(queued_rows, server, "heavy") < 64 * 10:
                pass
            answered_before = sum(call.done() for call in calls)
            server.signal(signal.SIGTERM)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            answers = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
            for result in answers:
                np.testing.assert_allclose(result.as_numpy("output"), data, rtol=1e-5)
            assert len(answers) >= answered_before + 10
            refusals = [outcome for outcome in outcomes if isinstance(outcome, InferenceServerException)]
            assert len(answers) + len(refusals) == len(calls)
            assert all("has stopped accepting new requests" in refusal.message() for refusal in refusals)
        assert await asyncio.to_thread(server.exit_code) == 0


def queued_rows(server, model):
    with urllib.request.urlopen(f"{server.http_url}/metrics", timeout=30) as response:
        page = response.read().decode()
    return float(page.split(f'conveyor_queue_rows{{model="{model}",version="1"}} ')[1].split()[0])


def http_status(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_in_the_lame_duck_window_it_is_not_ready_and_serves(repository):
    with ServerProcess(repository, "--lame-duck-seconds", "60") as server, Client(server.grpc_url) as client:
        server.signal(signal.SIGTERM)
        server.wait_for("Not ready any more; serving on for 60 s")
        assert not client.ready()
        assert http_status(f"{server.http_url}/readyz") == 503
        assert http_status(f"{server.http_url}/healthz") == 200
        assert client.predict("digits", IMAGES).shape == (64, 4)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_leaves_at_once(repository, second):
    with ServerProcess(repository, "--lame-duck-seconds", "600") as server:
        server.signal(signal.SIGTERM)
        server.wait_for("Not ready any more")
        server.signal(second)
        assert server.exit_code() == 128 + second
        assert f"{second.name} again: leaving now" in server.log[-1]


def test_ctrl_c_waits_for_no_balancer(repository):
    with ServerProcess(repository, "--lame-duck-seconds", "600") as server:
        server.signal(signal.SIGINT)
        assert server.exit_code() == 0


def test_a_signal_while_models_load_stops_it(tmp_path):
    for number in range(20):
        save(heavy(), tmp_path, f"model{number}")
    with ServerProcess(tmp_path, ready="gRPC on|model0 version 1 is ready") as server:
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert not any("Ready: " in line for line in server.log)


def test_a_server_without_a_good_model_runs_and_is_not_ready(repository):
    (repository / "digits" / "1" / "model.onnx").write_bytes(b"no")
    with ServerProcess(repository, ready="Not ready: no model") as server, Client(server.grpc_url) as client:
        assert not client.ready()
        assert http_status(f"{server.http_url}/readyz") == 503
        with pytest.raises(CallError, match=r"UNAVAILABLE.*is not an ONNX model"):
            client.predict("digits", IMAGES)


@pytest.mark.parametrize("port", ["grpc", "http"])
def test_a_taken_port_is_a_clear_error(repository, port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"grpc": "0", "http": "0", port: str(taken.getsockname()[1])}
        done = run_server("--repository", repository, "--grpc-port", ports["grpc"], "--http-port", ports["http"])
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{ports[port]}" in done.stderr
    assert f"--{port}-port" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_servers_do_not_share_a_port(repository):
    with ServerProcess(repository) as server:
        port = server.grpc_url.rsplit(":", 1)[1]
        done = run_server("--repository", repository, "--grpc-port", port, "--http-port", "0")
    assert done.returncode == 1
    assert "gRPC cannot listen" in done.stderr


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--repository", "nowhere"], "The model repository 'nowhere' is not a folder that exists. Make one with"),
        (["--repository", "{}", "--execution-provider", "cuda"], "has only"),
        (["--repository", "{}", "--host", "192.0.2.1"], "the address is not of this machine"),
    ],
)
def test_what_makes_a_start_impossible_is_said_in_one_line(repository, flags, text):
    done = run_server("--grpc-port", "0", "--http-port", "0", *(flag.format(repository) for flag in flags))
    assert done.returncode == 1
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_environment_and_a_file_configure_a_real_server(repository, tmp_path):
    file = tmp_path / "server.toml"
    file.write_text("max_batch_size = 3\n")
    with (
        ServerProcess(repository, "--config", str(file), environment={"CONVEYOR_LOG_LEVEL": "info"}) as server,
        Client(server.grpc_url) as client,
        pytest.raises(CallError, match="batch-size must be <= 3"),
    ):
        client.predict("digits", IMAGES)
