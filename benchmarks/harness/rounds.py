"""A round of a comparison: servers in turn, each started on its cores, asked by every load from others, and ended."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from harness import environments, machine
from harness.asking import NoAnswer
from harness.h2load import Void
from harness.measuring import measure
from harness.network import WrongAnswer
from harness.results import Json
from harness.rows import Row
from harness.running import RunningServer
from harness.servers import Server, Unavailable

SERVER_CORE, LOAD_CORE = 0, 1
_SHORTER = 0.7
"""Of the time of a headline, for a row that is none."""


def prepare(servers: Sequence[Server]) -> None:
    """Makes the environments that are missing, and has this process run on the load's core and end what it starts."""
    if not {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        raise SystemExit("Two cores are needed, 0 for the server and 1 for the load.")
    for folder in sorted({server.folder for server in servers}):
        environments.environment(folder)
    machine.adopt_orphans()
    os.sched_setaffinity(0, {LOAD_CORE})
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def cores_of(server: Server) -> tuple[list[int], list[int]]:
    """Those of the server, and those of the load: one each, or both for both."""
    if server.cores == 1:
        return [SERVER_CORE], [LOAD_CORE]
    return [SERVER_CORE, LOAD_CORE], [SERVER_CORE, LOAD_CORE]


def rotated(servers: Sequence[Server], number: int) -> list[Server]:
    """The order of a round: each begins a few servers further on."""
    start = number * 3 % len(servers)
    return [*servers[start:], *servers[:start]]


def one_server(
    server: Server,
    rows: Sequence[Row],
    found: Json,
    *,
    seconds: float,
    tries: int,
    settle: float = 1.0,
    save: Callable[[], None] = lambda: None,
) -> None:
    """Starts a server, asks it, and ends it.

    Args:
        server: which.
        rows: the loads; those that do not apply to it are left out.
        found: takes what is measured.
        seconds: of a measurement.
        tries: for a measurement that others disturb.
        settle: seconds from the first answer until an idle server is looked at.
        save: called when something was added to `found`.
    """
    server_cores, load_cores = cores_of(server)
    found.pop("unavailable", None)
    try:
        with RunningServer(server, server_cores) as running:
            time.sleep(settle)
            idle = running.memory()
            found.setdefault("start_seconds", running.start_seconds)
            found.setdefault("idle_mib", idle.resident)
            found.setdefault("idle_proportional_mib", idle.proportional)
            found.setdefault("processes", idle.processes)
            for row in (row for row in rows if row.applies_to(server)):
                try:
                    window: Json = measure(running, row, load_cores, seconds * (1 if row.headline else _SHORTER), tries)
                except (Void, NoAnswer, WrongAnswer) as error:
                    window = {"void": str(error)}
                found.setdefault("rows", {})[row.name] = window
                _show(server, row, window)
                save()
            found["loaded_mib"] = running.memory().resident
        found["stop_seconds"] = running.stop_seconds
    except (Unavailable, WrongAnswer) as error:
        found["unavailable"] = str(error)
        print(f"  {server.title}: left out, {error}", flush=True)
    save()


def _show(server: Server, row: Row, window: Json) -> None:
    if "void" in window:
        figures = f"void: {window['void']}"
    else:
        figures = (
            f"{window['requests_per_second']:>9,.0f}/s {window['cpu_us']:>7,.0f} µs CPU"
            f" {window['p50_ms']:>8.2f} {window['p99_ms']:>8.2f} ms"
            f"   stolen {window['stolen']:.0%}, others {window['others']:.0%}"
        )
    print(f"  {server.title:34}{row.title:38}{figures}", flush=True)
