"""While someone does harm, others are answered, and right; the memory is bounded; and at the end nothing is left.

What it costs the others is measured by `make bench-hostile`; here nothing is timed. The attacks are the same.
"""

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from conveyor_server.generated import inference_pb2 as pb
from harness.attacks.catalogue import ATTACKS
from support.onnx_models import classifier, predict_classifier, save
from support.processes import ServerProcess

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
IMAGES = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
EXPECTED = predict_classifier(IMAGES)
QUESTIONS = 8
CONNECTIONS = 300
"""Of attacks that have thousands."""
MIB = 2**20
MEMORY = {"h2": 300 * MIB, "grpcio": 1024 * MIB}
"""What an attack may add, with messages of 4 MiB at most. grpcio's core has bounds of its own, which are wider."""
HARMFUL = (
    "pings",
    "settings",
    "acknowledgements",
    "priorities",
    "empty-data",
    "tiny-data",
    "continuations",
    "rapid-reset",
    "resets",
    "garbage-frames",
    "dribble",
    "unread",
    "unfinished",
    "hoarded-answers",
    "half-closed",
    "idle",
    "giant-headers",
    "header-bomb",
    "endless-bomb",
    "compression-bomb",
    "small-bombs",
    "stream-bombs",
    "table-bomb",
    "fields",
)


@pytest.fixture(scope="module")
def server(transport, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(classifier(), root, "digits")
    with ServerProcess(root, "--max-message-bytes", str(4 * MIB)) as process:
        yield process


def question():
    request = pb.ModelInferRequest(model_name="digits", raw_input_contents=[IMAGES.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=IMAGES.shape)
    return request.SerializeToString()


class Attacker:
    def __init__(self, name, port):
        command = [sys.executable, "-m", "harness.attacks.attacker", name, port, "--seconds", "120"]
        command += ["--connections", str(min(CONNECTIONS, ATTACKS[name].connections))]
        command += ["--inference", base64.b64encode(question()).decode(), "--largest", str(4 * MIB)]
        environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.process.terminate()
        said, _ = await asyncio.to_thread(self.process.communicate, timeout=60)
        self.outcome = json.loads(said)


async def ask(url, transport):
    """Asks until there is an answer: grpcio cuts calls off when it has too many of anyone's. The other one does not."""
    async with grpc.aio.insecure_channel(url) as channel, asyncio.timeout(100):
        while True:
            try:
                data = await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(question(), timeout=100)
            except grpc.aio.AioRpcError as error:
                if transport == "h2" or error.code() not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
                    raise
                await asyncio.sleep(0.01)
            else:
                break
    [contents] = pb.ModelInferResponse.FromString(data).raw_output_contents
    np.testing.assert_allclose(np.frombuffer(contents, np.float32).reshape(EXPECTED.shape), EXPECTED, atol=1e-5)


def most_memory(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+)", status, re.MULTILINE)[1]) * 1024


def gauges(server):
    with urllib.request.urlopen(f"{server.http_url}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if re.match(r"conveyor_(connections|in_flight_requests) ", line)
    )


ON_BOTH = ("pings", "rapid-reset", "dribble", "unfinished", "half-closed", "idle", "giant-headers", "compression-bomb")


@pytest.mark.parametrize("name", HARMFUL)
async def test_others_are_answered_under_attack(server, transport, name):
    if transport == "grpcio" and name not in ON_BOTH:
        pytest.skip("what grpcio does about it is measured, and not promised")
    before = most_memory(server)
    async with Attacker(name, server.grpc_url.rsplit(":", 1)[1]) as attacker:
        for _ in range(QUESTIONS):
            await ask(server.grpc_url, transport)
            await asyncio.sleep(0.05)  # or all would be asked before the attack has begun
    assert attacker.outcome["opened"] > 0
    assert attacker.outcome["sent"] > 0
    assert most_memory(server) < before + MEMORY[transport]


async def test_nothing_of_the_attacks_stays(server, transport):
    async with asyncio.timeout(100):
        while True:
            if not await asyncio.to_thread(gauges, server):
                break
            await asyncio.sleep(0.05)
    await ask(server.grpc_url, transport)
