"""The tables of a comparison, for a terminal and for a document."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import rich.table

from harness.criteria import Verdict
from harness.medians import known
from harness.results import Comparison, Json
from harness.rows import ROWS, Row
from harness.servers import SERVERS, Kind, Server


@dataclass
class Table:
    """Text in rows and columns. The first column is of words, the others of figures."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def for_terminal(self) -> rich.table.Table:
        table = rich.table.Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        head = ["| " + " | ".join(self.columns) + " |", "|---|" + "---:|" * (len(self.columns) - 1)]
        cells = [[" ".join(cell.replace("|", "/").split()) for cell in row] for row in self.rows]
        return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in cells)])


def number(value: float, digits: int = 0) -> str:
    """Nothing for what was not measured."""
    return "" if math.isnan(value) else f"{value:,.{digits}f}"


def milliseconds(value: float) -> str:
    return number(value, 2 if value < 10 else 1 if value < 100 else 0)


def measured(found: Comparison) -> list[Server]:
    return [server for server in SERVERS if found.measured(server.name)]


def overview(found: Comparison) -> Table:
    """The headline rows: requests/s and CPU, images/s, latency, what a process takes."""
    columns = ["", "protocol", "1 in flight: p50 ms", "32: requests/s", "64: requests/s", "64: CPU µs", "64: p99 ms"]
    columns += ["8 a request: images/s", "32 a request: images/s", "start s", "MiB idle / loaded", "environment MiB"]
    table = Table("One core for the server, one for the load", columns)
    for server in measured(found):
        name = server.name
        installed = found.raw["environments"].get(server.folder, {}).get("mib", math.nan)
        table.rows.append(
            [
                server.title,
                server.protocol,
                milliseconds(found.figure(name, "single-1", "p50_ms")),
                number(found.figure(name, "single-32", "requests_per_second")),
                number(found.figure(name, "single-64", "requests_per_second")),
                number(found.figure(name, "single-64", "cpu_us"), 1),
                milliseconds(found.figure(name, "single-64", "p99_ms")),
                number(found.figure(name, "batch-8", "images_per_second")),
                number(found.figure(name, "batch-32", "images_per_second")),
                number(found.process(name, "start_seconds"), 2),
                f"{number(found.process(name, 'idle_mib'))} / {number(found.process(name, 'loaded_mib'))}",
                "" if server.kind is Kind.FLOOR else number(installed),
            ]
        )
    alone = ["ONNX Runtime alone, in process", "none", milliseconds(1e3 / found.in_process(1)), "", ""]
    alone += [number(1e6 / found.in_process(64), 1), "", *(number(found.in_process(batch)) for batch in (8, 32))]
    table.rows.append([*alone, "", "", ""])
    return table


def _cell(found: Comparison, server: str, row: Row) -> str:
    if void := found.void(server, row.name):
        return f"void: {void}"
    rate, cpu, p50, p99 = (
        found.figure(server, row.name, figure) for figure in ("requests_per_second", "cpu_us", "p50_ms", "p99_ms")
    )
    if math.isnan(rate):
        return ""
    return f"{number(rate)} · {number(cpu)} · {milliseconds(p50)} / {milliseconds(p99)}"


def in_process_table(found: Comparison) -> Table:
    """ONNX Runtime alone, by images a run."""
    batches = sorted({int(batch) for one in found.raw["in_process"] for batch in one})
    table = Table("ONNX Runtime alone", ["images a run", *map(str, batches)])
    table.rows.append(["images/s", *(number(found.in_process(batch)) for batch in batches)])
    table.rows.append(["µs an image", *(number(1e6 / found.in_process(batch), 2) for batch in batches)])
    return table


def criteria_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table("What counts as done", ["criterion", "required", "figure", ""])
    table.rows += [[verdict.what, verdict.required, verdict.figure, verdict.word] for verdict in verdicts]
    return table


def loads(found: Comparison, title: str, wanted: Callable[[Row], bool] = lambda _: True) -> Table:
    """A row a server and a column a load: requests/s, CPU µs a request, p50 and p99 ms."""
    rows = [row for row in ROWS if wanted(row) and any(_cell(found, server.name, row) for server in SERVERS)]
    table = Table(title, ["", *(row.title for row in rows)])
    for server in measured(found):
        cells = [_cell(found, server.name, row) for row in rows]
        if any(cells):
            table.rows.append([server.title, *cells])
    return table


def overload_table(size: str, found: Json) -> Table:
    """A row for each server and rate, of one network."""
    columns = ["", "offered", "a second", "in time", "of what is sustained", "p50 ms", "p99 ms", "refused after ms"]
    table = Table(
        f"Goodput under overload, {size} network, deadline {found['deadline_ms']:g} ms",
        [*columns, "no answer", "idle to most MiB", "sent late p99 ms"],
    )
    titles = {server.name: server.title for server in SERVERS}
    for name, one in found["servers"].items():
        curve = [*one["curve"], *([one["minute"]] if "minute" in one else [])]
        for point in curve:
            total = sum(point["codes"].values())
            resident = point["resident_mib_by_second"]
            table.rows.append(
                [
                    titles[name] + (", a minute" if point is one.get("minute") else ""),
                    f"{point['factor']:g} times" + (f", {point['ended']}" if point["ended"] else ""),
                    number(point["offered_per_second"]),
                    number(point["goodput_per_second"]),
                    f"{point['goodput_ratio']:.0%}",
                    *(milliseconds(known(point[f"answered_{q}_ms"])) for q in ("p50", "p99")),
                    milliseconds(known(point["refused_p50_ms"])),
                    f"{sum(point['codes'].get(code, 0) for code in ('no answer', 'not sent')) / total:.0%}",
                    f"{number(resident[0])} to {number(max(resident))}" if resident else "",
                    milliseconds(point["sent_late_p99_ms"]),
                ]
            )
    return table
