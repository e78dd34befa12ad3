"""The limit: `InferenceSession.run` in a loop on one thread, with nothing around it.

Runs in a process of its own: `python -m harness.in_process FILE SECONDS BATCH...`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from harness import network
from harness.environments import environment

BATCHES = (1, 8, 16, 32, 64, 96, 128, 256, 1000)
_WARM_RUNS = 5


def run(model: Path, cores: Sequence[int], seconds: float, batches: Sequence[int] = BATCHES) -> dict[str, float]:
    """Images per CPU second by batch, as text, from `seconds` of runs each, on the given cores."""
    command = [str(environment("conveyor") / "bin" / "python"), "-m", "harness.in_process", str(model), str(seconds)]
    done = subprocess.run(
        ["taskset", "--cpu-list", ",".join(map(str, cores)), *command, *map(str, batches)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60 + 10 * seconds * len(batches),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "ORT_DISABLE_TELEMETRY": "1"},
    )
    return json.loads(done.stdout)


def _images_per_second(session: onnxruntime.InferenceSession, pixels: np.ndarray, seconds: float) -> float:
    for _ in range(_WARM_RUNS):
        session.run(None, {"image": pixels})
    runs, begin = 0, time.process_time()  # that others use the core as well is not its fault
    while (spent := time.process_time() - begin) < seconds:
        session.run(None, {"image": pixels})
        runs += 1
    return runs * len(pixels) / spent


def main() -> None:
    model, seconds, batches = sys.argv[1], float(sys.argv[2]), map(int, sys.argv[3:])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)
    print(json.dumps({batch: _images_per_second(session, network.images(batch), seconds) for batch in batches}))


if __name__ == "__main__":
    main()
