"""Repositories that change under a running server."""

import asyncio
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from support.onnx_models import classifier, predict_classifier, save
from support.processes import ServerProcess

IMAGES = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
EXPECTED = {version: predict_classifier(IMAGES, seed=version) for version in range(1, 6)}


def publish(root, version, content=None):
    """A version that appears whole, as the exporter publishes it."""
    hidden = root / ".new"
    path = save(classifier(seed=version), hidden, "digits", version)
    if content is not None:
        path.write_bytes(content)
    (root / "digits").mkdir(exist_ok=True)
    path.parent.rename(root / "digits" / str(version))
    shutil.rmtree(hidden)


class Load:
    """Clients without pause, each of which checks that an answer is that of the version that it names."""

    def __init__(self, url):
        self.url = url
        self.versions = []
        self.failures = []
        self.stopping = False

    async def run(self):
        async with triton_aio.InferenceServerClient(self.url) as client:
            await asyncio.gather(*(self.ask(client) for _ in range(8)))

    async def ask(self, client):
        tensor = InferInput("image", list(IMAGES.shape), "FP32")
        tensor.set_data_from_numpy(IMAGES)
        while not self.stopping:
            try:
                result = await client.infer("digits", [tensor], client_timeout=30)
            except InferenceServerException as error:
                self.failures.append(error)
                return
            version = int(result.get_response().model_version)
            np.testing.assert_allclose(result.as_numpy("probabilities"), EXPECTED[version], atol=1e-5)
            self.versions.append(version)


async def test_versions_are_swapped_under_load_without_a_failed_request(tmp_path):
    publish(tmp_path, 1)
    with ServerProcess(tmp_path, "--model-control", "poll", "--poll-seconds", "0.1") as server:
        load = Load(server.grpc_url)
        running = asyncio.create_task(load.run())
        for version in (2, 3, 4):
            await asyncio.to_thread(publish, tmp_path, version)
            await asyncio.to_thread(server.wait_for, f"digits version {version} is ready")
        await asyncio.to_thread(publish, tmp_path, 5, b"broken")
        await asyncio.to_thread(server.wait_for, "digits version 5 is not served")
        load.stopping = True
        await asyncio.wait_for(running, 60)
        assert load.failures == []
        assert set(load.versions) >= {1, 4}, "the load saw the first version and the last good one"
        assert 5 not in load.versions
        async with triton_aio.InferenceServerClient(server.grpc_url) as client:
            assert await client.is_model_ready("digits")
            assert not await client.is_model_ready("digits", "5")


def test_explicit_control_loads_what_is_named_and_what_is_asked_for(tmp_path):
    for name in ("a", "b"):
        save(classifier(), tmp_path, name)
    flags = ["--model-control", "explicit", "--load", "a", "--allow-admin"]
    with ServerProcess(tmp_path, *flags) as server, InferenceServerClient(server.grpc_url) as client:
        assert [client.is_model_ready(name) for name in ("a", "b")] == [True, False]
        client.load_model("b", config='{"max_batch_size": 3}')
        assert client.is_model_ready("b")
        assert client.get_model_config("b").config.max_batch_size == 3
        client.unload_model("a")
        assert not client.is_model_ready("a")
        with pytest.raises(InferenceServerException, match="failed to load 'nope'"):
            client.load_model("nope")


def test_sighup_takes_what_is_new_and_nothing_that_nobody_asked_for(tmp_path):
    publish(tmp_path, 1)
    with ServerProcess(tmp_path) as server:
        publish(tmp_path, 2)
        save(classifier(), tmp_path, "other")
        server.signal(signal.SIGHUP)
        server.wait_for("SIGHUP: taking the models anew")
        server.wait_for("digits version 2 is ready")
        server.wait_for("other version 1 is ready")
    flags = ["--model-control", "explicit", "--load", "digits", "--allow-admin"]
    with ServerProcess(tmp_path, *flags) as server, InferenceServerClient(server.grpc_url) as client:
        client.load_model("other")
        client.unload_model("other")
        save(classifier(), tmp_path, "third")
        publish(tmp_path, 3)
        server.signal(signal.SIGHUP)
        server.wait_for("digits version 3 is ready")
        server.signal(signal.SIGHUP)
        server.wait_for("SIGHUP: taking the models anew")  # so the first reload is over
        assert [client.is_model_ready(name) for name in ("digits", "other", "third")] == [True, False, False]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--model-control", "explicit", "--load", "nope"], "No such model in"),
        (["--load", "a"], "--load and --allow-admin need --model-control explicit"),
    ],
)
def test_a_start_that_cannot_be(tmp_path, flags, text):
    save(classifier(), tmp_path, "a")
    command = [
        sys.executable,
        "-m",
        "conveyor_server",
        "--repository",
        tmp_path,
        "--grpc-port",
        "0",
        "--http-port",
        "0",
    ]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert text in done.stderr.splitlines()[-1]


def test_an_unloaded_model_leaves_no_memory_behind(tmp_path):
    save(classifier(height=64, width=64, classes=100), tmp_path, "digits")  # 1.6 MB of weights: a leak would be seen
    (tmp_path / "digits" / "config.pbtxt").write_text("dynamic_batching { preferred_batch_size: [1] }")
    resident = {}
    with (
        ServerProcess(tmp_path, "--model-control", "explicit", "--allow-admin", "--load", "digits") as server,
        InferenceServerClient(server.grpc_url) as client,
    ):
        image = InferInput("image", [1, 64, 64, 1], "FP32")
        image.set_data_from_numpy(np.zeros((1, 64, 64, 1), np.float32))
        for cycle in range(1, 201):
            client.infer("digits", [image])
            client.unload_model("digits")
            if cycle in (20, 200):
                resident[cycle] = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
            client.load_model("digits")
    assert resident[200] <= resident[20] * 1.1, f"pages by cycle: {resident}"
