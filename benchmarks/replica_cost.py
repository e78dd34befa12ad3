"""What one replica costs: `python benchmarks/replica_cost.py`. The figures of docs/scaling.md come from here.

The server is pinned to one core and the load generator to another. Everything is repeated, and medians are printed.
Requests per second depend on what else runs on the core, CPU time per request hardly does: both are given, and the
share of the cores that others took.

From CPU time at several loads follow the two numbers that benchmarks/fleet_simulation.py starts from: k requests that
a replica finds waiting keep it busy for a + b·k, where a is what it pays once for all of them: waking up, a turn of the
loop, a run.
"""

import argparse
import dataclasses
import json
import shlex
import statistics
import time
from pathlib import Path

import numpy as np

from harness import network
from harness.asking import PREFIX
from harness.h2load import Shot
from harness.measuring import Window, measure
from harness.prometheus import mean_of, scrape
from harness.rounds import LOAD_CORE, SERVER_CORE, prepare
from harness.rows import Row
from harness.running import RunningServer
from harness.servers import SERVERS, Kind, Server
from harness.watching import Watched

TRIES = 3
"""For a measurement that others disturb."""
LARGER = (5, 32, 1000)
"""Images in a request."""
NO_MESSAGE = bytes(PREFIX)
SERVING = PREFIX + 2
"""Bytes of a health check's answer."""


def under_load(running: RunningServer, images: int, in_flight: int, seconds: float) -> Window:
    """One measurement: rate, CPU time, latency and how many rows came together."""
    labels = f'model="{network.NAME}"'
    before = scrape(running.http_port)
    row = Row(f"{images} x {in_flight}", f"{images} images, {in_flight} in flight", images, in_flight)
    window = measure(running, row, [LOAD_CORE], seconds, TRIES)
    return window | {"rows_a_run": mean_of("conveyor_batch_rows", labels, before, scrape(running.http_port))}


def health_check(running: RunningServer, seconds: float) -> float:
    """CPU microseconds of a check, one in flight."""
    url = f"http://127.0.0.1:{running.port}/grpc.health.v1.Health/Check"
    shot = Shot(url, True, NO_MESSAGE, SERVING, 1, 1, [LOAD_CORE])
    checks = int(shot.fire(100)["requests_per_second"] * seconds)
    with Watched(running, [LOAD_CORE]) as watched:
        shot.fire(checks)
    return watched.server_seconds / checks * 1e6


def fit(loads: dict[int, Window]) -> tuple[float, float]:
    """Least squares of CPU time per request = b + a / requests in flight, in microseconds.

    A busy server takes all that waits at once, and its clients then all send again: what is in flight comes together.
    Each load counts by its own size, so that the cheap requests of a busy server are met as well as the others.
    """
    cpu = np.array([load["cpu_us"] for load in loads.values()])
    columns = np.array([[1 / in_flight, 1.0] for in_flight in loads]) / cpu[:, None]
    (a, b), *_ = np.linalg.lstsq(columns, np.ones(len(cpu)), rcond=None)
    return float(a), float(b)


def medians(runs: list[Window]) -> Window:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def one_start(server: Server, options: argparse.Namespace) -> dict[str, object]:
    """Everything of one process, from its start to its end."""
    with RunningServer(server, [SERVER_CORE]) as running:
        result: dict[str, object] = {"start_seconds": running.start_seconds}
        time.sleep(1.0)
        result["cpu_seconds_to_ready"] = running.cpu_seconds()
        result["idle_mib"] = running.memory().resident
        result["health_us"] = health_check(running, options.seconds)
        result["loads"] = {load: under_load(running, 1, load, options.seconds) for load in options.in_flight}
        result["larger"] = {
            images: under_load(running, images, 16 if images < 1000 else 4, options.seconds) for images in LARGER
        }
        result["loaded_mib"] = running.memory().resident
    return result | {"stop_seconds": running.stop_seconds}


def report(starts: list[dict[str, object]], options: argparse.Namespace) -> str:
    plain = ("start_seconds", "cpu_seconds_to_ready", "idle_mib", "loaded_mib", "stop_seconds", "health_us")
    middle = medians([{name: run[name] for name in plain} for run in starts])
    loads = {load: medians([run["loads"][load] for run in starts]) for load in options.in_flight}
    lines = [
        f"start to ready            {middle['start_seconds']:.2f} s ({middle['cpu_seconds_to_ready']:.2f} s CPU)",
        f"resident, idle            {middle['idle_mib']:.0f} MiB",
        f"resident, after the load  {middle['loaded_mib']:.0f} MiB",
        f"stop, without lame duck   {middle['stop_seconds']:.1f} s",
        f"a health check            {middle['health_us']:.0f} µs CPU",
        "",
        "in flight  requests/s  CPU µs a request  requests a run  p50 ms  p99 ms  stolen  others",
    ]
    for load, row in loads.items():
        lines.append(
            f"{load:9}  {row['requests_per_second']:10.0f}  {row['cpu_us']:16.1f}  {row['rows_a_run']:14.1f}"
            f"  {row['p50_ms']:6.2f}  {row['p99_ms']:6.2f}  {row['stolen']:6.0%}  {row['others']:6.0%}"
        )
    a, b = fit(loads)
    lines += ["", f"k requests at once        {a:.0f} + {b:.1f}·k µs of CPU"]
    for images in LARGER:
        row = medians([run["larger"][images] for run in starts])
        lines.append(
            f"{images:4} images a request     {row['cpu_us']:.0f} µs CPU a request,"
            f" {row['cpu_us'] / images:.1f} an image, {row['images_per_second']:.0f} images/s"
        )
    return "\n".join(lines)


def main() -> None:
    ours = {server.name: server for server in SERVERS if server.kind is Kind.OURS and server.cores == 1}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="processes to measure, one after the other")
    parser.add_argument("--seconds", type=float, default=2, help="length of each measurement")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--server", choices=list(ours), default="conveyor-h2")
    parser.add_argument("--flags", type=shlex.split, default=[], help="more flags for the server")
    parser.add_argument("--json", type=Path, help="where to write every measurement")
    options = parser.parse_args()
    server = dataclasses.replace(ours[options.server], flags=tuple(options.flags))
    prepare([server])
    starts = [one_start(server, options) for _ in range(options.starts)]
    print(report(starts, options))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(starts, indent=2) + "\n")


if __name__ == "__main__":
    main()
