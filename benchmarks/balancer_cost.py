"""What a balancer costs: `python benchmarks/balancer_cost.py`. The figures of docs/scaling.md come from here.

Envoy and HAProxy, with the files in deploy/, have one core for themselves, one thread each; three replicas and the load
generator share the other. Above all, CPU time per request says what a balancer costs; the rate is only that of this
machine where the other core is the full one, which is printed beside it.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from harness import machine, network
from harness.asking import MODEL_INFER, PREFIX, ask_and_check
from harness.h2load import Shot
from harness.rounds import LOAD_CORE, SERVER_CORE, prepare
from harness.running import RunningServer
from harness.servers import SERVERS
from support.balancers import Balancer, Envoy, HaProxy

REPLICAS = 3
LOADS = ((1, 1), (1, 64), (32, 16))
"""Images in a request, and requests in flight."""


def on_core(core: int, start: Callable[[], Balancer]) -> Balancer:
    """A balancer whose threads may use one core only."""
    os.sched_setaffinity(0, {core})
    try:
        return start()
    finally:
        os.sched_setaffinity(0, {LOAD_CORE})


def measured(url: str, process: int, images: int, in_flight: int, seconds: float) -> dict[str, float]:
    """CPU time of a process for each request that goes through it, and the rate."""
    pixels = network.images(images)
    message = network.message(pixels)
    port = int(url.rsplit(":", 1)[1])
    size = ask_and_check(SERVERS[0], port, pixels).size
    connections = 1 if in_flight <= 32 else 4
    body = b"\0" + len(message).to_bytes(PREFIX - 1, "big") + message
    shot = Shot(f"http://{url}{MODEL_INFER}", True, body, size, connections, in_flight // connections, [LOAD_CORE])
    requests = max(200, int(shot.fire(200)["requests_per_second"] * seconds))
    shot.fire(max(200, requests // 4))
    before, begin = machine.cpu_seconds(process), time.monotonic()
    figures = shot.fire(requests)
    spent, took = machine.cpu_seconds(process) - before, time.monotonic() - begin
    return figures | {"cpu_us": spent / requests * 1e6, "busy": spent / took}


def row(name: str, images: int, in_flight: int, rounds: list[dict[str, float]]) -> str:
    figures = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    return (
        f"{name:16} {images:6} {in_flight:9}  {figures['requests_per_second']:10.0f}  {figures['cpu_us']:6.1f}"
        f"  {figures['busy']:5.0%}  {figures['p50_ms']:6.2f}  {figures['p99_ms']:6.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each load, all in turn")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of each measurement")
    options = parser.parse_args()
    server = SERVERS[0]
    prepare([server])
    with ExitStack() as stack:
        replicas = [stack.enter_context(RunningServer(server, [LOAD_CORE])) for _ in range(REPLICAS)]
        addresses = [(replica.port, replica.http_port) for replica in replicas]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        targets = {"one replica": (f"127.0.0.1:{replicas[0].port}", replicas[0].process_id)}
        for start in (lambda: Envoy(addresses, folder, threads=1), lambda: HaProxy(addresses, folder)):
            balancer = stack.enter_context(on_core(SERVER_CORE, start))
            balancer.wait_for_healthy(REPLICAS)
            targets[balancer.name] = (balancer.url, balancer.process.pid)
        print("through          images in flight  requests/s  CPU µs   busy  p50 ms  p99 ms")
        for images, in_flight in LOADS:
            found: dict[str, list[dict[str, float]]] = {name: [] for name in targets}
            for _ in range(options.rounds):
                for name, (url, process) in targets.items():
                    found[name].append(measured(url, process, images, in_flight, options.seconds))
            for name, rounds in found.items():
                print(row(name, images, in_flight, rounds), flush=True)


if __name__ == "__main__":
    main()
