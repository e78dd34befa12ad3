"""What the files of several ways are worth: size and speed in onnxruntime, side by side, and how ours compares."""

import random
import statistics
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from harness.exporters.networks import INPUT

OURS, AGAIN = "ours", "ours again"
BATCHES = (1, 32, 64)
SECONDS_PER_TURN = 0.02
LARGEST_DIFFERENCE = 1e-5

Files = dict[str, tuple[Path, float]]
"""Of each way, the file and the seconds of its export."""

Rows = dict[str, dict[str, float]]
"""Of each way, its figures by the names of the columns; the lower the better."""

Sessions = dict[str, onnxruntime.InferenceSession]


def measure(files: Files, rounds: int) -> Rows:
    """Size, nodes and speed of each file.

    Raises:
        SystemExit: a file answers otherwise than ours.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    paths = {name: path for name, (path, _) in files.items()} | {AGAIN: files[OURS][0]}
    sessions = {name: onnxruntime.InferenceSession(path, options) for name, path in paths.items()}
    generator = np.random.default_rng(0)
    check_answers(sessions, generator.random((5, *INPUT), np.float32))
    rows = {name: _size(path) | {"export ms": seconds * 1000} for name, (path, seconds) in files.items()}
    rows[AGAIN] = dict(rows[OURS])
    for batch in BATCHES:
        for name, value in _speeds(sessions, generator.random((batch, *INPUT), np.float32), rounds).items():
            rows[name][f"µs at {batch}"] = value
    return rows


def check_answers(sessions: Sessions, images: NDArray[np.float32]) -> None:
    answers = {name: session.run(None, _inputs(session, images))[0] for name, session in sessions.items()}
    for name, answer in answers.items():
        difference = float(np.abs(answer - answers[OURS]).max())
        if not difference <= LARGEST_DIFFERENCE:
            raise SystemExit(f"{name} answers otherwise than ours, by {difference:.2e}: the comparison would be void.")


def verdicts(rows: Rows) -> dict[str, str]:
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


def _inputs(session: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {session.get_inputs()[0].name: images}


def _size(path: Path) -> dict[str, float]:
    model = onnx.load(path)
    nodes = len(model.graph.node)
    del model.metadata_props[:]
    return {"nodes": nodes, "bytes": path.stat().st_size, "of it graph": model.ByteSize()}


def _speeds(sessions: Sessions, images: NDArray[np.float32], rounds: int) -> dict[str, float]:
    """Medians over rounds in each of which each file has one turn, in random order."""
    timings: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        _microseconds(session, images)
    for _ in range(rounds):
        for name in random.sample(list(sessions), len(sessions)):
            timings[name].append(_microseconds(sessions[name], images))
    return {name: statistics.median(values) for name, values in timings.items()}


def _microseconds(session: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> float:
    """Per image, over one short turn, in processor time of this thread."""
    inputs = _inputs(session, images)
    runs, start = 0, time.thread_time()
    while (spent := time.thread_time() - start) < SECONDS_PER_TURN or not runs:
        session.run(None, inputs)
        runs += 1
    return spent / runs / len(images) * 1e6
