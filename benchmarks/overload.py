"""How servers behave under more load than they can bear: `python benchmarks/overload.py`.

For each server on one core, the load generator on another: first its sustainable rate, which is what it answers when
it is always busy and never overrun. Then multiples of that rate are offered, each to a fresh server, each request with
a deadline, after which the client cancels it as gRPC's clients do. Goodput counts requests answered with outputs within
their deadline. Ours then bears three times its rate for a minute. All that for networks of different weight: how much
is left under overload depends on what an answer costs against what a refusal does.

What is measured lies in .benchmarks/overload; an interrupted run goes on where it was. With --json the results are
written when all is done; `python benchmarks/report.py` makes docs/benchmarks.md of them.
"""

import argparse
import dataclasses
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from harness import machine, network
from harness.kept_rounds import KeptRounds
from harness.measuring import DISTURBED, calmest, noise
from harness.medians import median
from harness.open_loop import NO_ANSWER, NOT_SENT, Outcomes, Target, closed_loop, open_loop
from harness.prometheus import median_of, scrape
from harness.results import Json, commit, to_text
from harness.rounds import LOAD_CORE, SERVER_CORE, prepare
from harness.running import WORK, RunningServer
from harness.servers import SERVERS, Kind, Server, Unavailable
from harness.tables import overload_table
from harness.watching import Resident, Watched


@dataclass(frozen=True)
class Case:
    """How a network is asked."""

    servers: Sequence[str]
    factors: Sequence[float]
    """What is offered, in sustainable rates."""
    deadline: float
    """Of each request, in seconds."""
    in_flight: int
    """In the measurement of the sustainable rate."""


OURS = ("conveyor-h2", "conveyor-grpcio")
NAMES = (*OURS, "triton", "mlserver", "kserve")
CASES = {
    "tutorial": Case(NAMES, (0.5, 1, 1.5, 2, 3), 0.1, 64),
    "medium": Case(NAMES, (1, 3), 0.1, 16),
    "large": Case(OURS, (3,), 1.0, 16),
}
"""By network."""
CODES = {
    NOT_SENT: "not sent",
    NO_ANSWER: "no answer",
    0: "OK",
    1: "CANCELLED",
    4: "DEADLINE_EXCEEDED",
    8: "RESOURCE_EXHAUSTED",
}
CODES |= {13: "INTERNAL", 14: "UNAVAILABLE"}
REFUSALS = (1, 8, 14)
"""CANCELLED is how grpc resets a call that it has no room for; what the client gives up is NO_ANSWER or NOT_SENT."""
MINUTE_FACTOR = 3.0
"""Multiple of the sustainable rate that ours bears for a minute."""


def describe(outcomes: Outcomes, timeout: float) -> Json:
    """What a load was like for its clients; latencies in milliseconds, None of nothing."""
    status, latency = np.frombuffer(outcomes.status, np.int8), np.frombuffer(outcomes.latency)
    answered, refused = latency[status == 0] * 1e3, latency[np.isin(status, REFUSALS)] * 1e3
    late = np.frombuffer(outcomes.lag, np.float32) * 1e3
    codes, counts = np.unique(status, return_counts=True)
    within = int((answered <= timeout * 1e3).sum())
    return {
        "offered_per_second": len(status) / outcomes.seconds,
        "goodput_per_second": within / outcomes.seconds,
        "codes": {CODES.get(int(code), str(code)): int(count) for code, count in zip(codes, counts, strict=True)},
        "answered_p50_ms": _quantile(answered, 0.5),
        "answered_p99_ms": _quantile(answered, 0.99),
        "answered_late": len(answered) - within,
        "refused_p50_ms": _quantile(refused, 0.5),
        "refused_p99_ms": _quantile(refused, 0.99),
        "sent_late_p50_ms": _quantile(late, 0.5),
        "sent_late_p99_ms": _quantile(late, 0.99),
        "client_busy": outcomes.cpu,
    }


def _quantile(values: np.ndarray, q: float) -> float | None:
    return float(np.quantile(values, q)) if len(values) else None


def offer(running: RunningServer, target: Target, rate: float, seconds: float) -> Json:
    """Offers a rate for a while."""
    ours = running.server.kind is Kind.OURS
    before = scrape(running.http_port) if ours else {}
    with Resident(running) as resident, Watched(running, [LOAD_CORE]) as watched:
        outcomes = open_loop(target, rate, seconds)
    figures = describe(outcomes, target.timeout) | watched.shares() | {"resident_mib_by_second": resident.mib}
    figures["ended"] = running.ended
    if ours and not running.ended:
        refusal = median_of("conveyor_refusal_duration_seconds", before, scrape(running.http_port))
        figures["server_refusal_p50_ms"] = None if refusal is None else refusal * 1e3
    return figures


def one_server(server: Server, size: str, options: argparse.Namespace) -> Json:
    """Everything of one server with one network."""
    case = CASES[size]
    with loaded(server, size, options) as (_, target):
        runs = [closed_loop(target, case.in_flight, 2.5) for _ in range(3)]
    sustainable = median(describe(run, target.timeout)["goodput_per_second"] for run in runs)
    print(f"{server.title}, {size} network: sustains {sustainable:,.0f}/s", flush=True)
    factors = options.factors or case.factors
    curve = [bear(server, size, sustainable, factor, options.seconds, options) for factor in factors]
    found: Json = {"sustainable_per_second": sustainable, "curve": curve}
    if server.kind is Kind.OURS and options.minute:
        found["minute"] = bear(server, size, sustainable, MINUTE_FACTOR, options.minute, options)
    return found


@contextmanager
def loaded(server: Server, size: str, options: argparse.Namespace) -> Iterator[tuple[RunningServer, Target]]:
    """A fresh server that is warm, and what to ask of it."""
    case = CASES[size]
    with RunningServer(server, [SERVER_CORE], size=size) as running:
        message = network.message(network.images(1))
        target = Target("127.0.0.1", running.port, message, case.deadline, options.connections)
        closed_loop(target, case.in_flight, 1.0)
        yield running, target


def bear(
    server: Server, size: str, sustainable: float, factor: float, seconds: float, options: argparse.Namespace
) -> Json:
    """The offer that others disturbed least, of as many as are allowed; each meets a fresh server."""
    tries: list[Json] = []
    while len(tries) < options.tries and (not tries or noise(tries[-1]) > DISTURBED):
        with loaded(server, size, options) as (running, target):
            figures = offer(running, target, sustainable * factor, seconds)
            if not figures["ended"]:
                figures["afterwards_per_second"] = afterwards(target, CASES[size].in_flight)
        figures |= {"factor": factor, "goodput_ratio": figures["goodput_per_second"] / sustainable}
        show(figures)
        tries.append(figures)
    return calmest(tries)


def afterwards(target: Target, in_flight: int) -> float:
    """What a server answers in time when the overload is over."""
    try:
        return describe(closed_loop(target, in_flight, 1.0), target.timeout)["goodput_per_second"]
    except ConnectionError:
        return 0.0


def show(figures: Json) -> None:
    codes = ", ".join(f"{code} {count:,}" for code, count in figures["codes"].items())
    print(
        f"  {figures['factor']:>4g} times, {figures['offered_per_second']:>8,.0f}/s offered:"
        f" {figures['goodput_per_second']:>7,.0f}/s in time ({figures['goodput_ratio']:.0%}); {codes};"
        f" {figures['ended']} sent late p99 {figures['sent_late_p99_ms']:.1f} ms, others {noise(figures):.0%}",
        flush=True,
    )


def facts(options: argparse.Namespace) -> Json:
    """What the figures depend on."""
    return {
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "seconds": options.seconds,
        "minute": options.minute,
        "connections": options.connections,
        "flags": options.flags,
    }


def measure(servers: Sequence[Server], options: argparse.Namespace) -> Json:
    """What is not measured yet is; returns all."""
    kept = KeptRounds(options.folder)
    kept.begin(facts(options), resume=options.resume)
    networks: dict[str, Json] = {}
    for size in options.networks:
        networks[size] = {"deadline_ms": CASES[size].deadline * 1e3, "servers": {}}
        for server in [server for server in servers if server.name in CASES[size].servers]:
            name = f"{server.name}-{size}"
            if not kept.load(name, 0):
                try:
                    kept.save(name, 0, one_server(server, size, options))
                except Unavailable as error:
                    print(f"{server.title}: left out, {error}", flush=True)
                    continue
            networks[size]["servers"][server.name] = kept.load(name, 0)
    return {**kept.facts(), "networks": networks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=tuple(CASES), help="by weight")
    parser.add_argument("--factors", type=float, nargs="+", help="other multiples of the sustainable rates")
    parser.add_argument("--seconds", type=float, default=6, help="how long each is offered")
    parser.add_argument("--minute", type=float, default=60, help="how long ours bears three times its rate; 0: not")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--tries", type=int, default=2, help="for what others on the machine disturb")
    parser.add_argument("--flags", type=shlex.split, default=[], help="more flags for our server")
    parser.add_argument("--resume", action="store_true", help="go on, though files have changed since")
    parser.add_argument("--folder", type=Path, default=WORK / "overload", help="of what is measured")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    servers = [server for server in SERVERS if server.name in options.servers]
    prepare(servers)
    servers = [
        dataclasses.replace(server, flags=tuple(options.flags)) if server.kind is Kind.OURS else server
        for server in servers
    ]
    found = measure(servers, options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(to_text(found))
    for size, one in found["networks"].items():
        Console(width=150).print(overload_table(size, one).for_terminal())


if __name__ == "__main__":
    main()
