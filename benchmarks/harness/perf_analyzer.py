"""NVIDIA's load generator: a full gRPC client in C++, which looks at every answer."""

import csv
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import network
from harness.environments import ROOT
from harness.h2load import Void

FOLDER = ROOT / ".tools" / "perf_analyzer"


def fire(port: int, in_flight: int, cores: Sequence[int], seconds: float) -> dict[str, float]:
    """Keeps so many requests of one image in flight, over one connection.

    Returns:
        requests, requests_per_second, p50_ms, p99_ms.

    Raises:
        Void: it reported an error, or an answer had one.
    """
    program = FOLDER / "bin" / "perf_analyzer"
    if not program.exists():
        raise SystemExit("perf_analyzer is missing; run: make bench")
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "table.csv")
        command = [program, "-m", network.NAME, "-i", "grpc", "-u", f"127.0.0.1:{port}"]
        command += ["--shape", "image:" + ",".join(map(str, network.IMAGE)), "--concurrency-range", str(in_flight)]
        command += ["--measurement-interval", str(int(seconds * 1000)), "--percentile", "99", "-f", table]
        command += ["--stability-percentage", "999", "--max-trials", "3"]  # it wants three windows, and judges none
        done = subprocess.run(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=60 + 10 * seconds,
            env={**os.environ, "LD_LIBRARY_PATH": str(FOLDER / "nvidia" / "cuda_runtime" / "lib")},
        )
        if done.returncode or not table.exists():
            raise Void(f"perf_analyzer: {(done.stderr or done.stdout)[-300:].strip()}")
        with table.open() as file:
            (row,) = csv.DictReader(file)
    return _figures(row, done.stdout)


def _figures(row: dict[str, str], report: str) -> dict[str, float]:
    client = report.partition("Client:")[2]
    count = next((line.split(":")[1] for line in client.splitlines() if "Request count" in line), "nan")
    return {
        "requests": float(count),
        "requests_per_second": float(row["Inferences/Second"]),
        "p50_ms": float(row["p50 latency"]) / 1e3,
        "p99_ms": float(row["p99 latency"]) / 1e3,
    }
