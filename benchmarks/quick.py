"""The ratios that a change must not worsen, in about three minutes: `python benchmarks/quick.py`.

Ratios of CPU times, between servers that took turns: on a machine that others use as well, they say much more than
rates. Exits with 1 where one is below its floor. The floors are far below what was measured when they were set, so a
broken one is no noise.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from harness import in_process, network
from harness.results import Comparison, Json
from harness.rounds import SERVER_CORE, one_server, prepare, rotated
from harness.rows import ROWS
from harness.running import MODELS
from harness.servers import SERVERS, Server
from harness.tables import Table

NAMES = ("conveyor-h2", "conveyor-grpcio", "echo-h2", "echo-grpcio")
LOADS = ("single-1", "single-64", "batch-32")


@dataclass(frozen=True)
class Floor:
    """A ratio, and the least that it may be."""

    what: str
    ratio: Callable[[Comparison], float]
    least: float
    reason: str


def cheaper(server: str, than: str, row: str, found: Comparison) -> float:
    """How many times less CPU time a request takes than with another server."""
    return found.figure(than, row, "cpu_us") / found.figure(server, row, "cpu_us")


def share_of_limit(server: str, found: Comparison) -> float:
    """The share of its CPU time that ONNX Runtime alone would take for 32 images."""
    return 32e6 / found.in_process(32) / found.figure(server, "batch-32", "cpu_us")


FLOORS = (
    Floor(
        "h2 against grpcio: 1 image, 64 in flight",
        partial(cheaper, "conveyor-h2", "conveyor-grpcio", "single-64"),
        8.0,
        "12 when set; 10 is promised",
    ),
    Floor(
        "h2 against ngh2 alone: 1 image, 64 in flight",
        partial(cheaper, "conveyor-h2", "echo-h2", "single-64"),
        0.22,
        "0.32 when set",
    ),
    Floor(
        "h2 against ngh2 alone: 1 image, 1 in flight",
        partial(cheaper, "conveyor-h2", "echo-h2", "single-1"),
        0.2,
        "0.29 when set",
    ),
    Floor(
        "h2 against ONNX Runtime alone: 32 images",
        partial(share_of_limit, "conveyor-h2"),
        0.4,
        "0.52 when set; 0.8 is promised",
    ),
    Floor(
        "grpcio against grpcio alone: 1 image, 64 in flight",
        partial(cheaper, "conveyor-grpcio", "echo-grpcio", "single-64"),
        0.38,
        "0.60 when set",
    ),
    Floor(
        "grpcio against ONNX Runtime alone: 32 images",
        partial(share_of_limit, "conveyor-grpcio"),
        0.18,
        "0.27 when set",
    ),
)


def measure(servers: Sequence[Server], options: argparse.Namespace) -> Comparison:
    """As a full comparison does, with fewer servers and loads and shorter."""
    rows = [row for row in ROWS if row.name in LOADS]
    raw: Json = {"servers": {server.name: {"rounds": []} for server in servers}, "in_process": []}
    model = network.write_repository(MODELS / network.TUTORIAL)
    for number in range(options.rounds):
        raw["in_process"].append(in_process.run(model, [SERVER_CORE], 0.25, (32,)))
        for server in rotated(servers, number):
            found: Json = {}
            one_server(server, rows, found, seconds=options.seconds, tries=options.tries, settle=0.0)
            raw["servers"][server.name]["rounds"].append(found)
    return Comparison(raw)


def table(found: Comparison) -> Table:
    result = Table("Ratios", ["", "figure", "floor", "why", ""])
    for floor in FLOORS:
        value = floor.ratio(found)
        known = not math.isnan(value)
        word = ("ok" if value >= floor.least else "BROKEN") if known else "not measured"
        result.rows.append([floor.what, f"{value:.2f}" if known else "", f"{floor.least:.2f}", floor.reason, word])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--tries", type=int, default=3, help="for a measurement that others disturb")
    options = parser.parse_args()
    servers = [server for server in SERVERS if server.name in NAMES]
    prepare(servers)
    found = measure(servers, options)
    Console(width=120).print(table(found).for_terminal())
    if voids := found.voids():
        raise SystemExit("Not every answer was right:\n" + "\n".join(voids))
    if any(floor.ratio(found) < floor.least for floor in FLOORS):
        sys.exit(1)


if __name__ == "__main__":
    main()
