"""Ways to ONNX side by side, for three networks: ours, Keras' own export, torch.onnx, tf2onnx and optimum.

    python benchmarks/export.py [--all] [--rounds 41] [--json FILE]

The same weights go all ways. tf2onnx and optimum run in environments of their own, in .tools/bench; without `--all`,
which makes them, those that are not there are left out. Each file runs in onnxruntime on one thread, whose processor
time is taken, so that what other programs do in between does not count. In every round each file has one short turn, in
random order, because a machine's speed drifts; medians of the rounds are reported. Our file takes part twice, as `ours`
and as `ours again`: by as much as it differs from itself, others differ from it by chance. Export times are medians
too, of a process that has exported before. `of it graph` are the bytes without what a file says about itself, labels
and the like. Needs the test dependencies (Keras).
"""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import torch
from rich.console import Console
from rich.table import Table

from harness import machine
from harness.environments import pinned
from harness.exporters import rival_process
from harness.exporters.measuring import OURS, Files, Rows, measure, verdicts
from harness.exporters.networks import NETWORKS, TUTORIAL
from harness.exporters.own_process import in_ours, ways, weights_of
from harness.exporters.timing import timed_export

WIDTH = 120
PACKAGES = ("keras", "torch", "onnx", "onnxruntime")
RIVAL_PACKAGES = {
    "tf2onnx": ("tf2onnx", "tensorflow_cpu", "keras"),
    "optimum": ("optimum-onnx", "optimum", "transformers", "torch"),
}


def export_all(folder: Path, rivals: list[str]) -> dict[str, Files]:
    """Each network's files."""
    files: dict[str, Files] = {name: {} for name in NETWORKS}
    for way, export in ways(TUTORIAL).items():
        export(folder / f"{way}.first.onnx")  # the first export of a process also loads the exporters
    for name, network in NETWORKS.items():
        for way, export in ways(network).items():
            path = folder / f"{name}.{way}.onnx"
            files[name][way] = path, timed_export(export, path)
    given = {name: (network, weights_of(in_ours(network))) for name, network in NETWORKS.items()}
    for rival in rivals:
        place = folder / rival
        place.mkdir()
        for name, exported in rival_process.export_with(rival, given, place).items():
            files[name][rival] = exported
    return files


def table_of(title: str, rows: Rows) -> Table:
    table, columns = Table(title=title), list(rows[OURS])
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for way, row in rows.items():
        table.add_row(way, *(f"{row[column]:,.4g}" if row[column] % 1 else f"{row[column]:,}" for column in columns))
    verdict = verdicts(rows)
    table.add_section()
    table.add_row("ours to the best", *(verdict[column] for column in columns))
    return table


def versions(rivals: list[str]) -> dict[str, dict[str, str]]:
    """What was compared, by environment."""
    found = {OURS: {package: version(package) for package in PACKAGES}}
    for rival in rivals:
        installed = pinned(rival)
        found[rival] = {package: installed[package] for package in RIVAL_PACKAGES[rival]}
    return found


def main() -> None:
    """Measures, prints a table for each network, and writes the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="make the environments of tf2onnx and optimum, 3 GB, once")
    parser.add_argument("--rounds", type=int, default=41, help="rounds whose median is reported")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # of the other exporters; ours has none
    torch.set_num_threads(1)
    console, results = Console(), {}
    console.width = max(console.width, WIDTH)
    rivals = list(rival_process.NAMES) if arguments.all else rival_process.made()
    if missing := [name for name in rival_process.NAMES if name not in rivals]:
        console.print(f"Without {' and '.join(missing)}, whose environment is not there: make bench-export-all")
    with tempfile.TemporaryDirectory() as folder:
        for name, files in export_all(Path(folder), rivals).items():
            with console.status(name):
                results[name] = measure(files, arguments.rounds)
            console.print(table_of(name, results[name]))
    if arguments.json:
        head = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "versions": versions(rivals)}
        arguments.json.write_text(json.dumps(head | {"networks": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
