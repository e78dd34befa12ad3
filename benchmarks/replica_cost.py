"""What one replica costs: `python benchmarks/replica_cost.py`. The figures of docs/scaling.md come from here.

The server is pinned to one core and the load generator to another. Everything is repeated, and medians are printed.
Requests per second depend on what else runs on the core, CPU time per request hardly does: both are given, and the
share of the core that others took.

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
from harness.open_loop import Target, closed_loop
from harness.prometheus import mean_of, scrape
from harness.rounds import LOAD_CORE, SERVER_CORE, prepare
from harness.running import RunningServer
from harness.servers import SERVERS, Kind, Server
from harness.watching import Watched

HEALTH = "/grpc.health.v1.Health/Check"


def under_load(running: RunningServer, target: Target, in_flight: int, seconds: float) -> dict[str, float]:
    """One measurement: rate, CPU time, latency and how many rows came together."""
    closed_loop(target, in_flight, 0.5)
    before = scrape(running.http_port)
    with Watched(running, [LOAD_CORE]) as watched:
        outcomes = closed_loop(target, in_flight, seconds)
    status, latency = np.frombuffer(outcomes.status, np.int8), np.frombuffer(outcomes.latency)
    if failed := int((status != 0).sum()):
        raise SystemExit(f"{failed} requests failed; nothing is measured of those.")
    result = {
        "per_second": len(status) / outcomes.seconds,
        "cpu_us": watched.server_seconds / len(status) * 1e6,
        "p50_ms": float(np.quantile(latency, 0.5)) * 1e3,
        "p99_ms": float(np.quantile(latency, 0.99)) * 1e3,
        "others": watched.shares()["others"],
    }
    if target.method != HEALTH:
        labels = f'model="{network.NAME}"'
        result["rows_a_run"] = mean_of("conveyor_batch_rows", labels, before, scrape(running.http_port))
    return result


def fit(loads: dict[int, dict[str, float]]) -> tuple[float, float]:
    """Least squares of CPU time per request = b + a / requests in flight, in microseconds.

    A busy server takes all that waits at once, and its clients then all send again: what is in flight comes together.
    """
    columns = np.array([[1 / in_flight, 1.0] for in_flight in loads])
    (a, b), *_ = np.linalg.lstsq(columns, np.array([load["cpu_us"] for load in loads.values()]), rcond=None)
    return float(a), float(b)


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def one_start(server: Server, options: argparse.Namespace) -> dict[str, object]:
    """Everything of one process, from its start to its end."""
    with RunningServer(server, [SERVER_CORE]) as running:
        result: dict[str, object] = {"start_seconds": running.start_seconds}
        time.sleep(1.0)
        result["cpu_seconds_to_ready"] = running.cpu_seconds()
        result["idle_mib"] = running.memory().resident
        one, five = (
            Target("127.0.0.1", running.port, network.message(network.images(rows)), 10.0, 4) for rows in (1, 5)
        )
        checks = Target("127.0.0.1", running.port, b"", 10.0, 4, HEALTH)
        loads = {in_flight: under_load(running, one, in_flight, options.seconds) for in_flight in options.in_flight}
        result["loads"] = loads
        result["five_rows"] = under_load(running, five, 64, options.seconds)
        result["health_check"] = under_load(running, checks, 1, options.seconds)
        result["loaded_mib"] = running.memory().resident
    return result


def report(starts: list[dict[str, object]], options: argparse.Namespace) -> str:
    plain = ("start_seconds", "cpu_seconds_to_ready", "idle_mib", "loaded_mib")
    middle = medians([{name: run[name] for name in plain} for run in starts])
    loads = {load: medians([run["loads"][load] for run in starts]) for load in options.in_flight}
    five, health = (medians([run[name] for run in starts]) for name in ("five_rows", "health_check"))
    lines = [
        f"start to ready            {middle['start_seconds']:.2f} s ({middle['cpu_seconds_to_ready']:.2f} s CPU)",
        f"resident, idle            {middle['idle_mib']:.0f} MiB",
        f"resident, after the load  {middle['loaded_mib']:.0f} MiB",
        "",
        "in flight  requests/s  CPU µs a request  requests a run  p50 ms  p99 ms  others on the core",
    ]
    for load, row in loads.items():
        lines.append(
            f"{load:9}  {row['per_second']:10.0f}  {row['cpu_us']:16.0f}  {row['rows_a_run']:14.1f}"
            f"  {row['p50_ms']:6.2f}  {row['p99_ms']:6.2f}  {row['others']:18.0%}"
        )
    a, b = fit(loads)
    lines += [
        "",
        f"k requests at once        {a:.0f} + {b:.0f}·k µs of CPU",
        f"five rows a request       {five['cpu_us']:.0f} µs CPU a request, {five['per_second'] * 5:.0f} images/s",
        f"a health check            {health['cpu_us']:.0f} µs CPU",
    ]
    return "\n".join(lines)


def main() -> None:
    ours = {server.name: server for server in SERVERS if server.kind is Kind.OURS and server.cores == 1}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="processes to measure, one after the other")
    parser.add_argument("--seconds", type=float, default=4, help="length of each measurement")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--server", choices=list(ours), default="conveyor-grpcio")
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
