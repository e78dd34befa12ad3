"""docs/benchmarks.md and its charts, from the results of benchmarks/compare.py and benchmarks/overload.py.

    python benchmarks/report.py [--folder docs]

Reads FOLDER/benchmarks/{comparison,overload}.json, writes FOLDER/benchmarks.md and the charts beside the results. Every
figure in the document comes from them; its words are in benchmarks/report.md.
"""

import argparse
import json
import string
from collections.abc import Iterable
from pathlib import Path

from harness import charts, criteria, measuring, tables
from harness.environments import ROOT
from harness.results import Comparison, Json
from harness.rows import Generator
from harness.servers import SERVERS

WORDS = Path(__file__).with_name("report.md")
ROUNDS = 5
CALM_SHARE = 0.8
"""Of the measurements, in a run that is worth to be cited."""


def document(found: Comparison, overload: Json | None) -> str:
    """The text."""
    machine = found.raw["machine"]
    rounds = max(len(server["rounds"]) for server in found.raw["servers"].values())
    best, _ = found.best_in_process()
    return string.Template(WORDS.read_text()).substitute(
        commit=found.raw["commit"],
        date=found.raw["date"],
        machine=f"{machine['cores']} virtual cores of {machine['processor']} ({machine['vectors']}), "
        f"{machine['memory_gib']} GiB, {machine['system']}, Linux {machine['kernel']}, Python {machine['python']}",
        rounds=rounds,
        warning=warning(found, overload, rounds),
        seconds=f"{found.raw['seconds']:g}",
        tries=found.raw["tries"],
        disturbed=f"{measuring.DISTURBED:.0%}",
        noise=noise(found),
        overview=tables.overview(found).markdown(),
        in_process=tables.in_process_table(found).markdown(),
        best=best,
        criteria=tables.criteria_table(criteria.check(found, overload)).markdown(),
        h2load=tables.loads(
            found, "", lambda row: row.generator is Generator.H2LOAD and not row.stream and row.datatype == "FP32"
        ).markdown(),
        streams=tables.loads(found, "", lambda row: bool(row.stream)).markdown(),
        uint8=tables.loads(found, "", lambda row: row.datatype == "UINT8").markdown(),
        clients=tables.loads(found, "", lambda row: row.generator is not Generator.H2LOAD).markdown(),
        overload=overload_section(overload),
        left_out=left_out(found),
        versions=versions(found),
    )


def noise(found: Comparison) -> str:
    """What the measurements were disturbed by, in words."""
    shares = sorted(measuring.noise(window) for window in found.all_windows())
    return (
        f"{len(shares):,} measurements, of which {calm(shares):,} were calm; in the others the hypervisor and other "
        f"processes took {shares[-1]:.0%} of a core at most"
    )


def warning(found: Comparison, overload: Json | None, rounds: int) -> str:
    """What readers must know first, if the run was not as it should be."""
    networks = (overload or {"networks": {}})["networks"].values()
    points = [point for one in networks for server in one["servers"].values() for point in server["curve"]]
    shares = [measuring.noise(window) for window in (*found.all_windows(), *points)]
    reasons = []
    if rounds < ROUNDS:
        reasons.append(f"it has {rounds} rounds, not {ROUNDS}")
    if calm(shares) < CALM_SHARE * len(shares):
        reasons.append(f"others used the machine in {len(shares) - calm(shares):,} of {len(shares):,} measurements")
    if not reasons:
        return ""
    return f"\n> **Do not cite this run**: {', and '.join(reasons)}. CPU times are near the truth, rates are not.\n"


def calm(shares: Iterable[float]) -> int:
    return sum(share <= measuring.DISTURBED for share in shares)


def overload_section(overload: Json | None) -> str:
    if overload is None:
        return "Not measured."
    parts = [f"Commit {overload['commit']}."]
    for size, one in overload["networks"].items():
        parts.append(f"### The {size} network, {one['deadline_ms']:g} ms")
        parts.append(f"![goodput over the offered rate](benchmarks/overload-{size}.svg)")
        parts.append(tables.overload_table(size, one).markdown())
    return "\n\n".join(parts)


def left_out(found: Comparison) -> str:
    """What could not be measured, and why."""
    lines = []
    for server in SERVERS:
        for one in found.raw["servers"].get(server.name, {}).get("rounds", []):
            if "unavailable" in one:
                lines.append(f"- {server.title}: {one['unavailable']}.")
                break
    return "\n".join(lines) or "Nothing."


def versions(found: Comparison) -> str:
    """A line for each environment: what decides about speed."""
    packages = ("onnxruntime", "numpy", "grpcio", "protobuf", "ngh2", "uvloop", "uvicorn")

    def lines() -> Iterable[str]:
        for folder, one in found.raw["environments"].items():
            own = {server.distribution for server in SERVERS if server.folder == folder and server.distribution}
            listed = [name for name in (*sorted(own), *packages) if name in one["packages"]]
            yield f"- {folder}: " + ", ".join(f"{name} {one['packages'][name]}" for name in dict.fromkeys(listed))

    return "\n".join(lines())


def write(folder: Path) -> None:
    data = folder / "benchmarks"
    found = Comparison(json.loads((data / "comparison.json").read_text()))
    file = data / "overload.json"
    overload = json.loads(file.read_text()) if file.exists() else None
    (folder / "benchmarks.md").write_text(document(found, overload))
    for draw in (charts.throughput, charts.cpu, charts.images, charts.latency):
        draw(found, data / f"{draw.__name__}.svg")
    for size, one in (overload or {"networks": {}})["networks"].items():
        charts.overload(size, one, data / f"overload-{size}.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs")
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
