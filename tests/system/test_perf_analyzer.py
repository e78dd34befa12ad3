"""NVIDIA's load generator must work unchanged."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from support.onnx_models import classifier, save
from support.processes import ServerProcess

FOLDER = Path(__file__).parents[2] / ".tools" / "perf_analyzer"
PROGRAM = FOLDER / "bin" / "perf_analyzer"
LIBRARIES = FOLDER / "nvidia" / "cuda_runtime" / "lib"


@pytest.fixture(scope="module")
def server(transport, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(classifier(height=28, width=28, classes=10), root, "digits")
    with ServerProcess(root) as process:
        yield process


@pytest.mark.parametrize("way", [(), ("--async", "--streaming")], ids=["unary", "streaming"])
def test_perf_analyzer_runs_through_and_reports_the_times_of_the_server(server, way):
    assert PROGRAM.exists(), "perf_analyzer is not installed; run the tests with: make test"
    command = [PROGRAM, "-m", "digits", "-i", "grpc", "-u", server.grpc_url, *way]
    command += ["--shape", "image:28,28,1", "--concurrency-range", "8", "--stability-percentage", "999"]
    command += ["--measurement-interval", "500", "--max-trials", "3"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(LIBRARIES)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    throughput = re.search(r"Concurrency: 8, throughput: ([\d.]+) infer/sec", done.stdout)
    assert throughput, done.stdout
    assert float(throughput[1]) > 0
    server_side = re.search(r"queue (\d+) usec \+ compute input \d+ usec \+ compute infer (\d+) usec", done.stdout)
    assert server_side, "the times of the server are reported as well:\n" + done.stdout
    assert int(server_side[2]) > 0
    assert "rror" not in done.stdout.replace("standard error", ""), done.stdout
