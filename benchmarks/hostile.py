"""What good clients notice while another one does harm: `python benchmarks/hostile.py`.

For each attack a fresh server on one core; the good clients, and the attacker at the lowest priority, on another.
Good clients ask at a steady rate over connections that they keep, and others come anew, ask once and go. Measured are
their latencies without and under the attack, and the most memory that the server ever had. The attack "nothing" shows
how much of that comes from sharing a core with the attacker. Where others on the machine disturb a measurement, it is
repeated, and the calmest one counts. `chrt --rr 10 python benchmarks/hostile.py` measures also where others work all
the time: server and good clients go before them, the attacker never does.

With --json the results are written, and docs/hostile-clients.md is made of them and of benchmarks/hostile.md.
"""

import argparse
import base64
import json
import os
import re
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from harness import machine, network
from harness.attacks.attack import Attack
from harness.attacks.catalogue import ATTACKS
from harness.environments import ROOT
from harness.good_clients import ask
from harness.measuring import DISTURBED, calmest, noise
from harness.open_loop import Target, closed_loop
from harness.prometheus import scrape
from harness.results import Json, commit, to_text
from harness.rounds import LOAD_CORE, SERVER_CORE, prepare
from harness.running import RunningServer
from harness.servers import SERVERS, Server
from harness.tables import Table, milliseconds, number
from harness.watching import Watched

NAMES = ("conveyor-h2", "conveyor-grpcio")
LARGEST = 4 * 2**20
"""Bytes of the largest request that attacks pretend to send."""
WORDS, PAGE, DATA = Path(__file__).with_name("hostile.md"), ROOT / "docs/hostile-clients.md", ROOT / "docs/benchmarks"
BOUND = 2.0
"""Times the good clients' usual p99."""
NAMED = (
    "dribble",
    "unread",
    "unfinished",
    "pings",
    "rapid-reset",
    "giant-headers",
    "compression-bomb",
    "idle",
    "half-closed",
)
NAMED += ("settings", "empty-data", "priorities", "header-bomb", "endless-bomb", "continuations")
"""What this server promises to withstand. The others are what else was thought of."""
SHOWN_FIRST = ("nothing", *NAMED)


@contextmanager
def attacked(attack: Attack, port: int, message: bytes, seconds: float) -> Iterator[Json]:
    """An attack of so many seconds at most while the block lasts; its outcome is there when that ends."""
    command = [sys.executable, "-m", "harness.attacks.attacker", attack.name, str(port), "--seconds", str(seconds)]
    command += ["--inference", base64.b64encode(message).decode(), "--largest", str(LARGEST)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    outcome: Json = {}
    # Not in the class of a real-time priority either, which this process may have.
    attacker = subprocess.Popen(
        ["chrt", "--other", "0", "nice", "-n", "19", *command], env=environment, stdout=subprocess.PIPE
    )
    try:
        yield outcome
    finally:
        attacker.terminate()
        try:
            said, _ = attacker.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            attacker.kill()
            attacker.communicate()
            raise
        outcome.update(json.loads(said))


def most_mib(process: int) -> float:
    """The most memory that a process ever had."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+)", status, re.MULTILINE)[1]) / 1024


def one(server: Server, attack: Attack, options: argparse.Namespace) -> Json:
    """One attack on a fresh server."""
    with RunningServer(server, [SERVER_CORE]) as running:
        message = network.message(network.images(1))
        target = Target("127.0.0.1", running.port, message, 5.0, 4)
        closed_loop(target, 16, 1.0)
        kept = target.connect()
        idle = most_mib(running.process_id)
        with Watched(running, [LOAD_CORE]) as watched:
            calm = ask(target, kept, options.rate, options.seconds)
            begin, cpu = time.monotonic(), running.cpu_seconds()
            with attacked(attack, running.port, message, 60 + options.lead + options.seconds) as outcome:
                time.sleep(options.lead)
                under = ask(target, kept, options.rate, options.seconds)
                busy = (running.cpu_seconds() - cpu) / (time.monotonic() - begin)
        endings = {name: value for name, value in scrape(running.http_port).items() if "closed_conn" in name and value}
        most, ended = most_mib(running.process_id), running.ended
        for connection in kept:
            connection.socket.close()
    return {
        "calm": calm, "under": under, "mib": idle, "most_mib": most, "server_busy_under": busy, "attacker": outcome,
        "endings": endings, "ended": ended, **watched.shares(),
    }  # fmt: skip


def holds(found: Json) -> bool:
    """Whether the good clients had all answers within the bound."""
    under, calm = found["under"], found["calm"]
    return not under["lost"] and under["p99"] is not None and under["p99"] <= BOUND * calm["p99"]


def table(results: Json, server: str, named: bool) -> Table:
    """A row for each attack."""
    columns = ["attack", "p50 ms", "p99 ms", "times", "lost", "newcomers: worst ms", "lost", "server's core", "MiB", ""]
    made = Table(server, columns)
    for name, found in results["servers"].get(server, {}).items():
        if (name in SHOWN_FIRST) is not named:
            continue
        calm, under, new = found["calm"], found["under"], found["under"]["newcomers"]
        times = under["p99"] / calm["p99"] if under["p99"] else float("nan")
        made.rows.append(
            [
                f"{name}: {ATTACKS[name].what}",
                _change(calm["p50"], under["p50"]),
                _change(calm["p99"], under["p99"]),
                number(times, 1),
                f"{under['lost']} of {under['asked']}",
                _change(calm["newcomers"]["worst"], new["worst"]),
                f"{new['lost']} of {new['asked']}",
                f"{found['server_busy_under']:.0%}",
                f"{found['mib']:.0f} → {found['most_mib']:.0f}",
                "yes" if holds(found) else "no",
            ]
        )
    return made


def _change(before: float | None, after: float | None) -> str:
    return f"{'' if before is None else milliseconds(before)} → {'none' if after is None else milliseconds(after)}"


def page(results: Json) -> str:
    """The text of docs/hostile-clients.md."""
    facts = {key: results[key] for key in ("commit", "date", "rate", "seconds", "lead", "tries")}
    described = results["machine"]
    return string.Template(WORDS.read_text()).substitute(
        facts,
        bound=f"{BOUND:g}",
        machine=f"{described['cores']} virtual cores of {described['processor']}, {described['memory_gib']} GiB",
        disturbed=f"{max(noise(one) for found in results['servers'].values() for one in found.values()):.0%}",
        h2=table(results, "conveyor-h2", True).markdown(),
        h2_others=table(results, "conveyor-h2", False).markdown(),
        grpcio=table(results, "conveyor-grpcio", True).markdown(),
        grpcio_others=table(results, "conveyor-grpcio", False).markdown(),
    )


def measure(servers: list[Server], options: argparse.Namespace) -> Json:
    results: Json = {"commit": commit(), "date": time.strftime("%Y-%m-%d"), "machine": machine.describe()}
    results |= {"rate": options.rate, "seconds": options.seconds, "lead": options.lead, "tries": options.tries}
    results["servers"] = {server.name: {} for server in servers}
    for name in options.attacks or [*SHOWN_FIRST, *(name for name in ATTACKS if name not in SHOWN_FIRST)]:
        for server in servers:
            tries: list[Json] = []
            while len(tries) < options.tries and (not tries or noise(tries[-1]) > DISTURBED):
                tries.append(one(server, ATTACKS[name], options))
            results["servers"][server.name][name] = found = calmest(tries)
            if options.json:  # a long run that is broken off is worth something
                options.json.write_text(to_text(results))
            row = table({"servers": {server.name: {name: found}}}, server.name, name in SHOWN_FIRST).rows[0]
            print(f"{server.title:20}", *row, f"others {noise(found):.0%}", sep="  ", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS)
    parser.add_argument(
        "--seconds", type=float, default=3, help="how long good clients ask, without and under an attack"
    )
    parser.add_argument("--lead", type=float, default=2, help="how long an attack lasts before that")
    parser.add_argument("--rate", type=float, default=500, help="requests a second of good clients")
    parser.add_argument("--tries", type=int, default=2, help="for what others on the machine disturb")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--page", action="store_true", help="measure nothing, only make the page of the results anew")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(page(json.loads((DATA / "hostile.json").read_text())))
        return
    servers = [server for server in SERVERS if server.name in options.servers]
    prepare(servers)
    results = measure(servers, options)
    if options.json:
        PAGE.write_text(page(json.loads(options.json.read_text())))
    for server in servers:
        for named in (True, False):
            Console(width=180).print(table(results, server.name, named).for_terminal())


if __name__ == "__main__":
    main()
