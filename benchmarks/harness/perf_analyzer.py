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

_NO_ANSWER_IN_A_WINDOW = "Failed to obtain stable measurement"
"""It then has no figure; a longer window mends that."""
_LONGER = 3
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
    for interval in (seconds, _LONGER * seconds):
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder, "table.csv")
            command = [str(program), "-m", network.NAME, "-i", "grpc", "-u", f"127.0.0.1:{port}", "-f", str(table)]
            command += ["--shape", "image:" + ",".join(map(str, network.IMAGE)), "--concurrency-range", str(in_flight)]
            command += ["--measurement-interval", str(int(interval * 1000)), "--percentile", "99"]
            command += ["--stability-percentage", "999", "--max-trials", "3"]  # it wants three windows, and judges none
            code, report = _run(["taskset", "--cpu-list", ",".join(map(str, cores)), *command], 60 + 10 * interval)
            if code == 0 and table.exists():
                with table.open() as file:
                    (row,) = csv.DictReader(file)
                return _figures(row, report)
        if _NO_ANSWER_IN_A_WINDOW not in report:
            break
    raise Void(f"perf_analyzer: {report[-300:].strip()}")


def _run(command: list[str], timeout: float) -> tuple[int, str]:
    """The exit code, and all that it said."""
    libraries = {"LD_LIBRARY_PATH": str(FOLDER / "nvidia" / "cuda_runtime" / "lib")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout, env={**os.environ, **libraries}
        )
    except subprocess.TimeoutExpired as error:
        raise Void(f"perf_analyzer did not end within {timeout:g} s") from error
    return done.returncode, done.stdout + done.stderr


def _figures(row: dict[str, str], report: str) -> dict[str, float]:
    client = report.partition("Client:")[2]
    count = next((line.split(":")[1] for line in client.splitlines() if "Request count" in line), "nan")
    return {
        "requests": float(count),
        "requests_per_second": float(row["Inferences/Second"]),
        "p50_ms": float(row["p50 latency"]) / 1e3,
        "p99_ms": float(row["p99 latency"]) / 1e3,
    }
