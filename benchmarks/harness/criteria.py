"""What the comparison must show for the server to be called fast: each criterion, its figure, whether it is met.

Ratios are of medians over the rounds of one run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.medians import known, median
from harness.results import Comparison
from harness.servers import SERVERS, Kind

OURS, SAME_HANDLERS = "conveyor-h2", "conveyor-grpcio"
REFERENCE_US_PER_IMAGE = 11.7
"""Of ONNX Runtime at 64 images a run, on the machine on which the CPU time a request was set."""
REFERENCE_CPU_US = 65.0
MEMORY_GROWTH = 1.05


@dataclass(frozen=True)
class Verdict:
    """One criterion."""

    what: str
    required: str
    figure: str
    met: bool | None
    """None where it was not measured."""

    @property
    def word(self) -> str:
        return {True: "met", False: "missed", None: "not measured"}[self.met]


def at_least(what: str, value: float, bound: float, show: Callable[[float], str]) -> Verdict:
    return _verdict(what, "at least", value, bound, show, value >= bound)


def at_most(what: str, value: float, bound: float, show: Callable[[float], str]) -> Verdict:
    return _verdict(what, "at most", value, bound, show, value <= bound)


def _verdict(
    what: str, relation: str, value: float, bound: float, show: Callable[[float], str], holds: bool
) -> Verdict:
    known = not math.isnan(bound)
    measured = known and not math.isnan(value)
    required = f"{relation} {show(bound)}" if known else "depends on what was not measured"
    return Verdict(what, required, show(value) if measured else "", holds if measured else None)


def times(value: float) -> str:
    return f"{value:.3g} times"


def percent(value: float) -> str:
    return f"{value:.0%}"


def unit(name: str, digits: int = 0) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f} {name}"


def check(comparison: Comparison, overload: dict[str, Any] | None = None) -> list[Verdict]:
    """All criteria.

    Args:
        comparison: of all servers.
        overload: what benchmarks/overload.py found, by server.
    """
    return [*_throughput(comparison), *_large_requests(comparison), *_process(comparison), *_overload(overload or {})]


def _throughput(found: Comparison) -> list[Verdict]:
    rate = found.figure(OURS, "single-64", "requests_per_second")

    def ratio(server: str) -> float:
        return rate / found.figure(server, "single-64", "requests_per_second")

    alone = 1e6 / found.in_process(64)
    allowed = REFERENCE_CPU_US * alone / REFERENCE_US_PER_IMAGE
    rivals = [s.name for s in SERVERS if s.kind is Kind.RIVAL and s.protocol == "gRPC" and found.measured(s.name)]
    best = min((found.figure(name, "single-1", "p50_ms") for name in rivals), default=math.nan)
    return [
        at_least("1 image, 64 in flight: rate against grpcio's, same handlers", ratio(SAME_HANDLERS), 10, times),
        at_least("1 image, 64 in flight: rate against Triton's", ratio("triton"), 2.5, times),
        at_least("1 image, 64 in flight: rate against mosec's", ratio("mosec"), 1.2, times),
        at_most(
            f"1 image, 64 in flight: CPU a request (65 µs · {alone:.2f} / 11.7 µs an image in process)",
            found.figure(OURS, "single-64", "cpu_us"),
            allowed,
            unit("µs", 1),
        ),
        at_most(
            "1 image, 1 in flight: p50 against the best gRPC rival's",
            found.figure(OURS, "single-1", "p50_ms"),
            best,
            unit("ms", 3),
        ),
    ]


def _large_requests(found: Comparison) -> list[Verdict]:
    batch, best = found.best_in_process()
    return [
        at_least(
            "32 images a request: images/s against ONNX Runtime alone",
            found.figure(OURS, "batch-32", "images_per_second") / found.in_process(32),
            0.8,
            percent,
        ),
        at_least(
            f"1,000 images a request: images/s against ONNX Runtime alone at its best, {batch} a run",
            found.figure(OURS, "batch-1000", "images_per_second") / best,
            0.8,
            percent,
        ),
    ]


def _process(found: Comparison) -> list[Verdict]:
    start, idle = (found.process(OURS, name, "with_demo_models") for name in ("start_seconds", "idle_mib"))
    return [
        at_most("start to ready with the models of the demo", start, 1.5, unit("s", 2)),
        at_most("memory of an idle worker with the models of the demo", idle, 150, unit("MiB")),
    ]


def _overload(found: dict[str, Any]) -> list[Verdict]:
    networks = found.get("networks", {"tutorial": {}})
    return [verdict for size, one in networks.items() for verdict in _overload_of(size, one)]


def _overload_of(size: str, found: dict[str, Any]) -> list[Verdict]:
    verdicts = []
    for server, transport in ((OURS, "h2"), (SAME_HANDLERS, "grpcio")):
        minute = found.get("servers", {}).get(server, {}).get("minute", {})
        goodput, p99, refusal = (
            known(minute.get(name)) for name in ("goodput_ratio", "answered_p99_ms", "server_refusal_p50_ms")
        )
        growth, deadline = growth_of(minute.get("resident_mib_by_second", [])), known(found.get("deadline_ms"))
        where = f"{size} network, {transport}, 3 times the sustainable rate for a minute"
        verdicts += [
            at_least(f"{where}: goodput against the sustainable rate", goodput, 0.9, percent),
            at_most(f"{where}: p99 of what was answered", p99, deadline, unit("ms", 1)),
            at_most(f"{where}: median from arrival to refusal, at the server", refusal, 5, unit("ms", 2)),
            at_most(f"{where}: memory of the last ten seconds against the first", growth, MEMORY_GROWTH, times),
        ]
    return verdicts


def growth_of(resident: list[float]) -> float:
    """The median of the last ten values against that of the first ten."""
    return median(resident[-10:]) / median(resident[:10]) if len(resident) >= 20 else math.nan
