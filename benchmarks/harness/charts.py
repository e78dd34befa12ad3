"""The charts of docs/benchmarks.md, as SVG whose bytes depend on the figures alone."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from harness.results import Comparison, Json
from harness.servers import SERVERS, Kind, Server
from harness.tables import measured, number

_COLOURS = {Kind.OURS: "#0b6e4f", Kind.RIVAL: "#8a97a6", Kind.FLOOR: "#d3dae2"}
_LINES = {
    "conveyor-h2": ("#0b6e4f", "o"),
    "conveyor-grpcio": ("#7cb9a0", "s"),
    "triton": ("#c2571a", "^"),
    "mlserver": ("#3d5a98", "v"),
    "kserve": ("#8e5aa8", "D"),
}
_STYLE = {
    "svg.hashsalt": "conveyor",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
}


def save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")


def throughput(found: Comparison, file: Path) -> None:
    """Requests a second at 64 in flight, one image each."""

    def rate(server: Server) -> float:
        return found.figure(server.name, "single-64", "requests_per_second")

    servers = [server for server in measured(found) if server.cores == 1]
    _bars(servers, rate, lambda value: number(value), "requests/s: 1 image a request, 64 in flight, one core", file)


def cpu(found: Comparison, file: Path) -> None:
    """CPU time a request, at 64 in flight."""

    def cost(server: Server) -> float:
        return found.figure(server.name, "single-64", "cpu_us")

    title = "CPU µs a request: 1 image a request, 64 in flight"
    servers = [server for server in measured(found) if server.cores == 1]
    _bars(servers, cost, lambda value: number(value, 1 if value < 100 else 0), title, file, logarithmic=True)


def images(found: Comparison, file: Path) -> None:
    """Images a second at 32 a request, with the limit."""

    def rate(server: Server) -> float:
        return found.figure(server.name, "batch-32", "images_per_second")

    servers = [server for server in measured(found) if server.cores == 1 and server.kind is not Kind.FLOOR]
    limit = found.in_process(32)
    title = "images/s: 32 images a request, 16 in flight, one core"
    _bars(servers, rate, lambda value: f"{number(value)} = {value / limit:.0%}", title, file, limit=limit)


def latency(found: Comparison, file: Path) -> None:
    """p50 and p99 of one request at a time."""
    servers = sorted(
        (s for s in measured(found) if s.cores == 1), key=lambda s: found.figure(s.name, "single-1", "p50_ms")
    )
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(len(servers))
        for place, server in enumerate(reversed(servers)):
            p50, p99 = (found.figure(server.name, "single-1", name) for name in ("p50_ms", "p99_ms"))
            axes.plot([p50, p99], [place, place], color=_COLOURS[server.kind], linewidth=3, solid_capstyle="round")
            axes.plot([p50], [place], "o", color=_COLOURS[server.kind])
            _label(axes, f"{p50:.2f} to {p99:.2f}", p99, place)
        _logarithmic(axes)
        axes.set_ylim(-0.6, len(servers) - 0.4)
        axes.set_yticks(range(len(servers)), [server.title for server in reversed(servers)])
        axes.set_title("latency, p50 to p99 in ms: 1 image a request, 1 in flight")
        axes.margins(x=0.2)
        save(figure, file)


def overload(size: str, found: Json, file: Path) -> None:
    """Goodput over the rate that is offered, both in sustainable rates, of one network."""
    titles = {server.name: server.title for server in SERVERS}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for name, one in found["servers"].items():
            colour, marker = _LINES[name]
            label = f"{titles[name]} (1 = {number(one['sustainable_per_second'])}/s)"
            factors = [point["factor"] for point in one["curve"]]
            ratios = [point["goodput_ratio"] for point in one["curve"]]
            axes.plot(factors, ratios, color=colour, marker=marker, label=label)
            for point in one["curve"]:
                if point["ended"]:
                    place = (point["factor"], point["goodput_ratio"])
                    axes.annotate("process died", place, (0, 7), textcoords="offset points", ha="center", color=colour)
        ideal = sorted({point["factor"] for one in found["servers"].values() for point in one["curve"]})
        axes.plot(ideal, [min(1.0, factor) for factor in ideal], ":", color="#555555", label="ideal")
        axes.set_xlabel("offered rate, in sustainable rates")
        axes.set_ylabel("answered in time, in sustainable rates")
        axes.set_title(f"Goodput under overload, {size} network, deadline {found['deadline_ms']:g} ms")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.08)
        axes.legend(fontsize=9)
        save(figure, file)


def _canvas(bars: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 0.9 + 0.3 * bars), layout="constrained")
    return figure, figure.add_subplot()


def _label(axes: Axes, text: str, x: float, y: float) -> None:
    axes.annotate(text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=9)


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _bars(
    servers: Sequence[Server],
    value: Callable[[Server], float],
    text: Callable[[float], str],
    title: str,
    file: Path,
    *,
    limit: float = math.nan,
    logarithmic: bool = False,
) -> None:
    """A bar for each server that has a value, the best on top."""
    rows = sorted((server for server in servers if not math.isnan(value(server))), key=value, reverse=logarithmic)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(len(rows))
        values = [value(server) for server in rows]
        axes.barh(range(len(rows)), values, color=[_COLOURS[server.kind] for server in rows])
        for place, one in enumerate(values):
            _label(axes, text(one), one, place)
        if not math.isnan(limit):
            axes.axvline(limit, color="#555555", linestyle=":")
            axes.annotate(f"ONNX Runtime alone, {number(limit)} ", (limit, 0), ha="right", va="center", fontsize=9)
        if logarithmic:
            _logarithmic(axes)
        else:
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_yticks(range(len(rows)), [server.title for server in rows])
        axes.set_title(title)
        axes.margins(x=0.2)
        save(figure, file)
