"""What a good client notices while another one does harm: `python benchmarks/hostile.py`.

For each attack a fresh server on one core; the good clients and the attacker, which has the lowest priority, on another.
A good client asks at a steady rate over connections that it keeps; others come anew all the time, ask once and go.
Measured are their latencies without and under the attack, and the most memory that the server ever had. Exits with 1
where a bound is broken: the good client's p99 more than twice the normal one, an answer lost, or memory above the bound.
"""

import argparse
import base64
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console

from harness import network
from harness.attacks.attack import Attack
from harness.attacks.catalogue import ATTACKS
from harness.open_loop import Outcomes, Target, closed_loop, open_loop
from harness.prometheus import scrape
from harness.results import Json
from harness.rounds import LOAD_CORE, SERVER_CORE, prepare
from harness.running import RunningServer
from harness.servers import SERVERS
from harness.tables import Table, milliseconds

NAMES = ("conveyor-h2", "conveyor-grpcio")
MIB = 2**20


class Newcomers:
    """Clients that come while the `with` block lasts, one after the other: a connection, a request, an answer.

    Attributes:
        seconds: from the first packet to the answer, of those that got one.
        lost: how many got none.
    """

    def __init__(self, target: Target) -> None:
        self.seconds: list[float] = []
        self.lost = 0
        self._target = target
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._come)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _come(self) -> None:
        while not self._over.wait(0.1):
            begin = time.perf_counter()
            if self._ask():
                self.seconds.append(time.perf_counter() - begin)
            else:
                self.lost += 1

    def _ask(self) -> bool:
        try:
            connection = self._target.connect()[0]
        except OSError:
            return False
        with connection.socket:
            end = time.perf_counter() + self._target.timeout
            connection.send(end, time.perf_counter())
            while time.perf_counter() < end and not connection.closed:
                connection.flush()
                time.sleep(0.0005)
                if ended := connection.receive():
                    return ended[0][1] == 0
        return False


@contextmanager
def attacked(attack: Attack, port: int, message: bytes, seconds: float) -> Iterator[Json]:
    """An attack of so many seconds while the block lasts; its outcome is there when that ends."""
    command = [sys.executable, "-m", "harness.attacks.attacker", attack.name, str(port), "--seconds", str(seconds + 60)]
    command += ["--inference", base64.b64encode(message).decode(), "--largest", str(4 * MIB)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    outcome: Json = {}
    attacker = subprocess.Popen(["nice", "-n", "19", *command], env=environment, stdout=subprocess.PIPE)
    try:
        yield outcome
    finally:
        attacker.terminate()
        try:
            said, _ = attacker.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            attacker.kill()
            raise
        outcome.update(json.loads(said))


def peak_mib(running: RunningServer) -> float:
    """The most memory that the server ever had."""
    status = Path(f"/proc/{running._process.pid}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+)", status, re.MULTILINE)[1]) / 1024


def describe(outcomes: Outcomes) -> Json:
    status, latency = np.frombuffer(outcomes.status, np.int8), np.frombuffer(outcomes.latency) * 1e3
    good = latency[status == 0]
    return {
        "p50": float(np.quantile(good, 0.5)) if len(good) else None,
        "p99": float(np.quantile(good, 0.99)) if len(good) else None,
        "max": float(good.max()) if len(good) else None,
        "asked": len(status),
        "lost": int((status != 0).sum()),
    }


def one(server, attack: Attack, options) -> Json:
    with RunningServer(server, [SERVER_CORE]) as running:
        message = network.message(network.images(1))
        target = Target("127.0.0.1", running.port, message, 5.0, 4)
        alone = Target("127.0.0.1", running.port, message, 5.0, 1)
        closed_loop(target, 16, 1.0)
        idle = peak_mib(running)
        with Newcomers(alone) as usual:
            calm = describe(open_loop(target, options.rate, options.seconds))
        cpu = running.cpu_seconds()
        with attacked(attack, running.port, message, options.seconds) as outcome:
            time.sleep(options.lead)
            with Newcomers(alone) as newcomers:
                under = describe(open_loop(target, options.rate, options.seconds))
            busy = (running.cpu_seconds() - cpu) / (options.seconds + options.lead)
        endings = {k: v for k, v in scrape(running.http_port).items() if k.startswith("conveyor_closed") and v}
        return {"calm": calm, "under": under, "idle": idle, "peak": peak_mib(running), "busy": busy,
                "usual": usual.seconds, "newcomers": newcomers.seconds, "lost": newcomers.lost, "outcome": outcome,
                "endings": endings, "ended": running.ended}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--lead", type=float, default=1)
    parser.add_argument("--rate", type=float, default=500)
    options = parser.parse_args()
    servers = [server for server in SERVERS if server.name in options.servers]
    prepare(servers)
    for server in servers:
        for name in options.attacks or ATTACKS:
            f = one(server, ATTACKS[name], options)
            new = f["newcomers"]
            print(f"{server.name[9:]:7}{name:18} p50 {f['calm']['p50']:.2f}>{f['under']['p50'] or -1:.2f} p99 {f['calm']['p99']:.2f}>{f['under']['p99'] or -1:.2f} max {f['under']['max'] or -1:.0f}"
                  f" lost {f['under']['lost']}/{f['under']['asked']} new {len(new)} ok {max(new, default=0)*1e3:.0f} ms {f['lost']} lost"
                  f" MiB {f['idle']:.0f}>{f['peak']:.0f} busy {f['busy']:.0%} {f['ended']} {f['outcome']} {f['endings']}", flush=True)


if __name__ == "__main__":
    main()
