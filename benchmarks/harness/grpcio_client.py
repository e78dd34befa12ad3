"""A load generator on grpcio, as a Python client sees a server: one call after the other, or many by asyncio.

Runs in a process of its own: `python -m harness.grpcio_client PORT IN_FLIGHT SECONDS ANSWER_BYTES < message`.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio

from harness.asking import MODEL_INFER
from harness.h2load import Void
from harness.medians import quantile


def fire(
    port: int, message: bytes, answer_bytes: int, in_flight: int, cores: Sequence[int], seconds: float
) -> dict[str, float]:
    """Keeps so many requests in flight, over one channel.

    Returns:
        requests, requests_per_second, p50_ms, p99_ms.

    Raises:
        Void: an answer had an error, or another size than a right one.
    """
    arguments = [sys.executable, "-m", "harness.grpcio_client", str(port), str(in_flight), str(seconds)]
    try:
        done = subprocess.run(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), *arguments, str(answer_bytes)],
            input=message,
            capture_output=True,
            check=False,
            timeout=60 + 2 * seconds,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
    except subprocess.TimeoutExpired as error:
        raise Void("grpcio client: it did not end") from error
    if done.returncode:
        raise Void(f"grpcio client: {done.stderr.decode()[-300:].strip()}")
    return json.loads(done.stdout)


def _one_after_the_other(port: int, message: bytes, seconds: float, answer_bytes: int) -> list[float]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(MODEL_INFER)
        latencies, end = [], time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            _check(call(message, timeout=10), answer_bytes)
            latencies.append(time.perf_counter() - begin)
    return latencies


async def _many(port: int, message: bytes, seconds: float, answer_bytes: int, in_flight: int) -> list[float]:
    latencies = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(MODEL_INFER)
        end = time.perf_counter() + seconds

        async def client() -> None:
            while (begin := time.perf_counter()) < end:
                _check(await call(message, timeout=10), answer_bytes)
                latencies.append(time.perf_counter() - begin)

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(client())
    return latencies


def _check(answer: bytes, expected: int) -> None:
    if len(answer) != expected:
        raise SystemExit(f"an answer of {len(answer)} bytes came, a right one has {expected}")


def main() -> None:
    port, in_flight, seconds, answer_bytes = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    message, begin = sys.stdin.buffer.read(), time.perf_counter()
    if in_flight == 1:
        latencies = _one_after_the_other(port, message, seconds, answer_bytes)
    else:
        latencies = asyncio.run(_many(port, message, seconds, answer_bytes, in_flight))
    spent, milliseconds = time.perf_counter() - begin, sorted(1e3 * latency for latency in latencies)
    figures = {
        "requests": len(latencies),
        "requests_per_second": len(latencies) / spent,
        "p50_ms": quantile(milliseconds, 0.5),
        "p99_ms": quantile(milliseconds, 0.99),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
