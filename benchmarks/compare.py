"""Ours beside every rival, beside bare servers and beside ONNX Runtime alone: `python benchmarks/compare.py`.

A round starts each server once, one after the other, and puts every load on it; rounds begin with another server each
time. What is measured lies in .benchmarks/compare: an interrupted comparison goes on where it was. With --json the
results are written when all is done; `python benchmarks/report.py` makes docs/benchmarks.md of them.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from harness import environments, in_process, machine, network
from harness.asking import ask_whether_ready
from harness.criteria import check
from harness.kept_rounds import KeptRounds
from harness.results import Comparison, Json, commit, to_text
from harness.rounds import SERVER_CORE, cores_of, one_server, prepare, rotated
from harness.rows import ROWS, Row
from harness.running import MODELS, WORK, RunningServer
from harness.servers import SERVERS, Kind, Server, Unavailable
from harness.tables import criteria_table, in_process_table, overview

WIDTH = 180
ROUNDS_OF_OTHER_ROWS = 3
"""Of rows that are no headline."""
IN_PROCESS_SECONDS = 0.25
SETTLE_SECONDS = 1.0


def missing(server: Server, found: Json, rows: Sequence[Row]) -> list[Row]:
    """The rows of a round that are still to be measured."""
    return [row for row in rows if row.applies_to(server) and row.name not in found.get("rows", {})]


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
    kept, begin = KeptRounds(options.folder), time.monotonic()
    kept.begin(facts(options), resume=options.resume)
    model = network.write_repository(MODELS / network.TUTORIAL)
    for number in range(options.rounds):
        if not kept.load("in-process", number):
            kept.save("in-process", number, in_process.run(model, [SERVER_CORE], IN_PROCESS_SECONDS))
        wanted = [row for row in rows if row.headline or number < ROUNDS_OF_OTHER_ROWS]
        for place, server in enumerate(rotated(servers, number)):
            if options.demo and server.kind is Kind.OURS and not kept.load(f"demo-{server.name}", number):
                kept.save(f"demo-{server.name}", number, with_demo_models(server, options.demo))
            found = kept.load(server.name, number)
            if left := missing(server, found, wanted):
                minutes = (time.monotonic() - begin) / 60
                tries = options.tries if minutes < options.patience else 1
                print(f"{minutes:.1f} min: round {number + 1} of {options.rounds}, server {place + 1}", flush=True)
                save = partial(kept.save, server.name, number, found)
                one_server(server, left, found, seconds=options.seconds, tries=tries, save=save)


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
    kept = KeptRounds(options.folder)

    def entry(server: Server) -> Json:
        demo = kept.all(f"demo-{server.name}")
        return {"rounds": kept.all(server.name)} | ({"with_demo_models": demo} if demo else {})

    return {
        **kept.facts(),
        "environments": {
            folder: {
                "mib": environments.mebibytes(environments.FOLDER / folder),
                "packages": environments.pinned(folder),
            }
            for folder in sorted({server.folder for server in servers})
        },
        "in_process": kept.all("in-process"),
        "servers": {server.name: entry(server) for server in servers},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--tries", type=int, default=3, help="for a measurement that others disturb")
    parser.add_argument("--patience", type=float, default=20, help="minutes in which measurements are repeated")
    parser.add_argument("--servers", nargs="+", choices=[server.name for server in SERVERS])
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS])
    parser.add_argument("--demo", type=Path, help="folder with the models of `conveyor-export demo`")
    parser.add_argument("--resume", action="store_true", help="go on, though files have changed since")
    parser.add_argument("--folder", type=Path, default=WORK / "compare", help="of the raw rounds")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    servers = [server for server in SERVERS if not options.servers or server.name in options.servers]
    rows = [row for row in ROWS if not options.rows or row.name in options.rows]
    prepare(servers)
    compare(servers, rows, options)
    raw = results(servers, options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(to_text(raw))
    comparison, console = Comparison(raw), Console(width=WIDTH)
    for table in (overview(comparison), in_process_table(comparison), criteria_table(check(comparison))):
        console.print(table.for_terminal())
    if voids := comparison.voids():
        raise SystemExit("Not every answer was right:\n" + "\n".join(voids))


if __name__ == "__main__":
    main()
