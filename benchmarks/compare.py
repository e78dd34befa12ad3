"""Ours beside every rival, beside bare servers and beside ONNX Runtime alone: `python benchmarks/compare.py`.

A round starts each server once, one after the other, and puts every load on it; rounds begin with another server each
time. What is measured lies in .benchmarks/compare: an interrupted comparison goes on where it was. With --json the
results are written when all is done; `python benchmarks/report.py` makes docs/benchmarks.md of them.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from harness import environments, in_process, machine, network
from harness.asking import ask_whether_ready
from harness.criteria import check
from harness.h2load import Void
from harness.measuring import measure
from harness.results import Comparison, Json, Rounds, commit, to_text
from harness.rows import ROWS, Row
from harness.running import MODELS, WORK, RunningServer
from harness.servers import SERVERS, Kind, Server, Unavailable
from harness.tables import criteria_table, in_process_table, overview
from rich.console import Console

SERVER_CORE, LOAD_CORE = 0, 1
ROUNDS_OF_OTHER_ROWS = 3
IN_PROCESS_SECONDS = 0.25
SETTLE_SECONDS = 1.0
"""After the first answer, before memory and CPU of an idle server are looked at."""


def cores_of(server: Server) -> tuple[list[int], list[int]]:
    """Those of the server, and those of the load: one each, or both for both."""
    if server.cores == 1:
        return [SERVER_CORE], [LOAD_CORE]
    return [SERVER_CORE, LOAD_CORE], [SERVER_CORE, LOAD_CORE]


def missing(server: Server, found: Json, rows: Sequence[Row]) -> list[Row]:
    """The rows of a round that are still to be measured."""
    if "unavailable" in found:
        return []
    return [row for row in rows if row.applies_to(server) and row.name not in found.get("rows", {})]


def one_round(
    server: Server, rows: Sequence[Row], found: Json, options: argparse.Namespace, save: Callable[[], None]
) -> None:
    """Starts a server and adds what is measured to `found`."""
    server_cores, load_cores = cores_of(server)
    try:
        with RunningServer(server, server_cores) as running:
            time.sleep(SETTLE_SECONDS)
            idle, cpu = running.memory(), running.cpu_seconds()
            time.sleep(SETTLE_SECONDS)
            found.setdefault("start_seconds", running.start_seconds)
            found.setdefault("idle_mib", idle.resident)
            found.setdefault("idle_proportional_mib", idle.proportional)
            found.setdefault("processes", idle.processes)
            found.setdefault("idle_cpu", (running.cpu_seconds() - cpu) / SETTLE_SECONDS)
            for row in rows:
                seconds = options.seconds if row.headline else options.seconds * 0.7
                try:
                    window: Json = measure(running, row, load_cores, seconds, options.tries)
                except Void as error:
                    window = {"void": str(error)}
                found.setdefault("rows", {})[row.name] = window
                show(server, row, window)
                save()
            found["loaded_mib"] = running.memory().resident
        found["stop_seconds"] = running.stop_seconds
    except Unavailable as error:
        found["unavailable"] = str(error)
        print(f"  {server.title}: left out, {error}", flush=True)
    save()


def show(server: Server, row: Row, window: Json) -> None:
    if "void" in window:
        figures = f"void: {window['void']}"
    else:
        figures = (
            f"{window['requests_per_second']:>9,.0f}/s {window['cpu_us']:>7,.0f} µs CPU"
            f" {window['p50_ms']:>8.2f} {window['p99_ms']:>8.2f} ms"
            f"   stolen {window['stolen']:.0%}, others {window['others']:.0%}"
        )
    print(f"  {server.title:34}{row.title:38}{figures}", flush=True)


def with_demo_models(server: Server, repository: Path) -> Json:
    """How long ours takes to be ready with the models of the demo, and what it holds then."""
    try:
        with RunningServer(server, cores_of(server)[0], repository, ask_whether_ready) as running:
            time.sleep(SETTLE_SECONDS)
            return {"start_seconds": running.start_seconds, "idle_mib": running.memory().resident}
    except Unavailable as error:
        return {"unavailable": str(error)}


def compare(servers: Sequence[Server], rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Measures what is not measured yet."""
    rounds, begin = Rounds(options.folder), time.monotonic()
    rounds.begin(facts(options), resume=options.resume)
    model = network.write_repository(MODELS)
    for number in range(options.rounds):
        if not rounds.load("in-process", number):
            rounds.save("in-process", number, in_process.run(model, [SERVER_CORE], IN_PROCESS_SECONDS))
        wanted = [row for row in rows if row.headline or number < ROUNDS_OF_OTHER_ROWS]
        for place, server in enumerate(rotated(servers, number)):
            if options.demo and server.kind is Kind.OURS and not rounds.load(f"demo-{server.name}", number):
                rounds.save(f"demo-{server.name}", number, with_demo_models(server, options.demo))
            found = rounds.load(server.name, number)
            if left := missing(server, found, wanted):
                minutes = (time.monotonic() - begin) / 60
                print(
                    f"{minutes:.1f} min, round {number + 1} of {options.rounds}, {place + 1} of {len(servers)} servers"
                )
                one_round(server, left, found, options, partial(rounds.save, server.name, number, found))


def rotated(servers: Sequence[Server], number: int) -> list[Server]:
    """The order of a round: each begins a few servers further on."""
    start = number * 3 % len(servers)
    return [*servers[start:], *servers[:start]]


def facts(options: argparse.Namespace) -> Json:
    """What the figures depend on."""
    return {
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "seconds": options.seconds,
        "tries": options.tries,
    }


def results(servers: Sequence[Server], options: argparse.Namespace) -> Json:
    """All that was measured."""
    rounds = Rounds(options.folder)

    def entry(server: Server) -> Json:
        demo = rounds.all(f"demo-{server.name}")
        return {"rounds": rounds.all(server.name)} | ({"with_demo_models": demo} if demo else {})

    return {
        **rounds.facts(),
        "environments": {
            folder: {
                "mib": environments.mebibytes(environments.FOLDER / folder),
                "packages": environments.pinned(folder),
            }
            for folder in sorted({server.folder for server in servers})
        },
        "in_process": rounds.all("in-process"),
        "servers": {server.name: entry(server) for server in servers},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--tries", type=int, default=3, help="for a measurement that others disturb")
    parser.add_argument("--servers", nargs="+", choices=[server.name for server in SERVERS])
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS])
    parser.add_argument("--demo", type=Path, help="folder with the models of `conveyor-export demo`")
    parser.add_argument("--resume", action="store_true", help="go on, though files have changed since")
    parser.add_argument("--folder", type=Path, default=WORK / "compare", help="of the raw rounds")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    servers = [server for server in SERVERS if not options.servers or server.name in options.servers]
    rows = [row for row in ROWS if not options.rows or row.name in options.rows]
    if (os.cpu_count() or 0) < 2:
        raise SystemExit("Two cores are needed: one for the server, one for the load.")
    for folder in sorted({server.folder for server in servers}):
        environments.environment(folder)
    machine.adopt_orphans()
    os.sched_setaffinity(0, {LOAD_CORE})
    compare(servers, rows, options)
    raw = results(servers, options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(to_text(raw))
    comparison, console = Comparison(raw), Console()
    for table in (overview(comparison), in_process_table(comparison), criteria_table(check(comparison))):
        console.print(table.for_terminal())


if __name__ == "__main__":
    main()
