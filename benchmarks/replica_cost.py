"""What one replica costs: `python benchmarks/replica_cost.py`. The figures of docs/scaling.md come from here.

The server is pinned to one core and the load generator to another. Everything is repeated, and medians are printed.
Requests per second depend on what else runs on the core, CPU time per request hardly does: both are given, and the
share of the core that others took.

From CPU time at several loads follow the two numbers that benchmarks/fleet_simulation.py starts from: k requests that
a replica finds waiting keep it busy for a + b·k, where a is what it pays once for all of them: waking up, a turn of the
loop, a run.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from open_loop import Target, closed_loop, quantile
from overload import Server, core_busy, request, start

HEALTH = "/grpc.health.v1.Health/Check"
MODEL = "overload"


def resident_mib(server: Server) -> float:
    with open(f"/proc/{server.process.pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def mean_of(histogram: str, before: dict[str, float], after: dict[str, float]) -> float:
    """The mean of what a histogram of the model took in between two scrapes."""
    grown = {
        part: after[f'{histogram}_{part}{{model="{MODEL}"}}'] - before.get(f'{histogram}_{part}{{model="{MODEL}"}}', 0)
        for part in ("sum", "count")
    }
    return grown["sum"] / grown["count"]


def under_load(server: Server, target: Target, in_flight: int, options: argparse.Namespace) -> dict[str, float]:
    """One measurement: rate, CPU time, latency and how many rows came together."""
    closed_loop(target, in_flight, 0.5)
    before, cpu, busy, begin = server.scrape(), server.cpu_seconds(), core_busy(options.server_core), time.monotonic()
    outcomes = closed_loop(target, in_flight, options.seconds)
    elapsed = time.monotonic() - begin
    cpu, busy = server.cpu_seconds() - cpu, core_busy(options.server_core) - busy
    answered = [latency for status, latency in zip(outcomes.status, outcomes.latency, strict=True) if status == 0]
    if len(answered) < len(outcomes.status):
        raise SystemExit(f"{len(outcomes.status) - len(answered)} requests failed; nothing is measured of those.")
    result = {
        "per_second": len(answered) / outcomes.seconds,
        "cpu_us": cpu / len(answered) * 1e6,
        "p50_ms": quantile(answered, 0.5) * 1e3,
        "p99_ms": quantile(answered, 0.99) * 1e3,
        "others": max(0.0, busy - cpu) / elapsed,
    }
    if target.method != HEALTH:
        result["rows_a_run"] = mean_of("conveyor_batch_rows", before, server.scrape())
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


def one_start(options: argparse.Namespace) -> dict[str, object]:
    """Everything of one process, from its start to its end."""
    begin = time.monotonic()
    server = start(options)
    result: dict[str, object] = {"start_seconds": time.monotonic() - begin}
    try:
        time.sleep(1.0)
        result["cpu_seconds_to_ready"] = server.cpu_seconds()
        result["idle_mib"] = resident_mib(server)
        one, five = (Target("127.0.0.1", server.port, request(MODEL, rows), 10.0, 4) for rows in (1, 5))
        checks = Target("127.0.0.1", server.port, b"", 10.0, 4, HEALTH)
        result["loads"] = {in_flight: under_load(server, one, in_flight, options) for in_flight in options.in_flight}
        result["five_rows"] = under_load(server, five, 64, options)
        result["health_check"] = under_load(server, checks, 1, options)
        result["loaded_mib"] = resident_mib(server)
    finally:
        server.process.send_signal(signal.SIGINT)
        server.process.wait(60)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="processes to measure, one after the other")
    parser.add_argument("--seconds", type=float, default=4, help="length of each measurement")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--repository", type=Path, default=Path(".benchmarks/models"))
    parser.add_argument("--server-flags", nargs="*", default=[], help="more flags for the server")
    parser.add_argument("--json", type=Path, help="where to write every measurement")
    options = parser.parse_args(namespace=argparse.Namespace(command=None, port=0, model=MODEL))
    os.sched_setaffinity(0, {options.client_core})
    starts = [one_start(options) for _ in range(options.starts)]
    print(report(starts, options))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(starts, indent=2) + "\n")


if __name__ == "__main__":
    main()
