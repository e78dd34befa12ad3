"""Ways to ONNX side by side, for three networks: ours, Keras' own export, torch.onnx, tf2onnx and optimum.

    python benchmarks/export.py [--all] [--rounds 41] [--json FILE]

The same weights go all ways. tf2onnx and optimum run in environments of their own, in .tools/bench; without `--all`, which
makes them, those that are not there are left out. Each file runs in onnxruntime on one thread, whose processor time is
taken, so that what other programs do in between does not count. In every round each file has one short turn, in random
order, because a machine's speed drifts; medians of the rounds are reported. Our file takes part twice, as `ours` and as
`ours again`: by as much as it differs from itself, others differ from it by chance. Export seconds are medians too, of a
process that has exported before. Needs the test dependencies (Keras).
"""

import argparse
import json
import logging
import os
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

from harness.exporters import rival_process
from harness.exporters.networks import INPUT, NETWORKS, TUTORIAL
from harness.exporters.own_process import OURS, in_ours, ways, weights_of
from harness.exporters.timing import timed_export

BATCHES = (1, 32, 64)
SECONDS_PER_TURN = 0.02
AGAIN = "ours again"

Files = dict[str, tuple[Path, float]]
"""Of each way, the file and the seconds of its export."""


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


def microseconds(session: onnxruntime.InferenceSession, images: np.ndarray) -> float:
    """Per image, over one short turn, in processor time of this thread."""
    name = session.get_inputs()[0].name
    runs, start = 0, time.thread_time()
    while (spent := time.thread_time() - start) < SECONDS_PER_TURN or not runs:
        session.run(None, {name: images})
        runs += 1
    return spent / runs / len(images) * 1e6


def measure(files: Files, rounds: int) -> dict[str, dict[str, float]]:
    """Size, nodes and speed of each file; a file that answers otherwise than ours is an error."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    paths = {name: path for name, (path, _) in files.items()} | {AGAIN: files[OURS][0]}
    sessions = {name: onnxruntime.InferenceSession(path, options) for name, path in paths.items()}
    generator = np.random.default_rng(0)
    check_answers(sessions, generator.random((5, *INPUT), np.float32))
    rows: dict[str, dict[str, float]] = {}
    for name, (path, seconds) in files.items():
        nodes = len(onnx.load(path).graph.node)
        rows[name] = {"nodes": nodes, "bytes": path.stat().st_size, "export s": seconds}
    rows[AGAIN] = dict(rows[OURS])
    for batch in BATCHES:
        images = generator.random((batch, *INPUT), np.float32)
        timings: dict[str, list[float]] = {name: [] for name in sessions}
        for session in sessions.values():
            microseconds(session, images)
        for _ in range(rounds):
            for name in random.sample(list(sessions), len(sessions)):
                timings[name].append(microseconds(sessions[name], images))
        for name, values in timings.items():
            rows[name][f"µs at {batch}"] = statistics.median(values)
    return rows


def check_answers(sessions: dict[str, onnxruntime.InferenceSession], images: np.ndarray) -> None:
    answers = {name: s.run(None, {s.get_inputs()[0].name: images})[0] for name, s in sessions.items()}
    for name, answer in answers.items():
        difference = float(np.abs(answer - answers[OURS]).max())
        if not difference <= 1e-5:
            raise SystemExit(f"{name} answers otherwise than ours, by {difference:.2e}: the comparison would be void.")


def verdicts(rows: dict[str, dict[str, float]]) -> dict[str, str]:
    """Of each column, how ours compares with the best of the others; level is what differs no more than by chance."""
    found = {}
    for column, own in rows[OURS].items():
        best = min(row[column] for name, row in rows.items() if name not in (OURS, AGAIN))
        again = rows[AGAIN][column]
        chance = 1.02 * max(own, again) / min(own, again) if column.startswith("µs") else 1
        if best / chance <= own <= best * chance:
            found[column] = "level"
        else:
            found[column] = f"{best / own:.2f}x better" if own < best else f"{own / best:.2f}x WORSE"
    return found


def table_of(title: str, rows: dict[str, dict[str, float]]) -> Table:
    table, columns = Table(title=title), list(rows[OURS])
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for way, row in rows.items():
        table.add_row(way, *(f"{row[column]:,.4g}" if row[column] % 1 else f"{row[column]:,}" for column in columns))
    verdict = verdicts(rows)
    table.add_section()
    table.add_row("ours to the best", *(verdict[column] for column in columns))
    return table


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
    rivals = list(rival_process.NAMES) if arguments.all else rival_process.made()
    if missing := [name for name in rival_process.NAMES if name not in rivals]:
        console.print(f"Without {' and '.join(missing)}, whose environment is not there: make bench-export-all")
    with tempfile.TemporaryDirectory() as folder:
        for name, files in export_all(Path(folder), rivals).items():
            with console.status(name):
                results[name] = measure(files, arguments.rounds)
            console.print(table_of(name, results[name]))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
