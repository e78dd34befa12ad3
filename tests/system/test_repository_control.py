"""Repositories that change under a running server."""

import asyncio
import shutil
import subprocess
import sys

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


MEASURE = """
import asyncio, pathlib, sys
from conveyor_server.core.batch_queue import QueuePolicy
from conveyor_server.engine.repository import Repository
from conveyor_server.engine.runtime_options import RuntimeOptions
from conveyor_server.engine.served_model import ModelLoader
from conveyor_server.engine.serving import ServingDefaults

class Nobody:
    def ran(self, report): pass

async def main(root):
    defaults = ServingDefaults(RuntimeOptions(), QueuePolicy(64, 10**6))
    repository = Repository(root, ModelLoader(defaults, lambda name: Nobody()))
    await repository.load([])
    for cycle in range(1, 201):
        await repository.load_model("digits")
        await repository.unload_model("digits")
        await repository.drain()
        if cycle in (20, 200):
            print(pathlib.Path("/proc/self/statm").read_text().split()[1])

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def test_an_unloaded_model_leaves_no_memory_behind(tmp_path):
    save(classifier(height=64, width=64, classes=100), tmp_path, "digits")  # 1.6 MB of weights: a leak would be seen
    (tmp_path / "digits" / "config.pbtxt").write_text("dynamic_batching { preferred_batch_size: [1] }")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, timeout=120, check=True
    )
    early, late = map(int, done.stdout.split())
    assert late <= early * 1.1, f"{early} pages after 20 cycles, {late} after 200"
