"""The ways that have an environment of their own, because what they need must not be in ours: tf2onnx and optimum."""

import json
import os
import subprocess
from pathlib import Path

from harness.environments import RIVALS, environment, is_made
from harness.exporters import networks
from harness.exporters.networks import Network, Weights

NAMES = ("tf2onnx", "optimum")
BENCHMARKS = RIVALS.parent
LONGEST = 300
"""Seconds for all exports of one rival, after which something is wrong."""


def made() -> list[str]:
    """Those whose environment is there."""
    return [name for name in NAMES if is_made(name)]


def export_with(name: str, given: dict[str, tuple[Network, Weights]], folder: Path) -> dict[str, tuple[Path, float]]:
    """Each network's file and the seconds that the export took, by the name of the network.

    Raises:
        SystemExit: the rival's process failed; the message ends with what it said last.
    """
    for network, (layers, weights) in given.items():
        networks.save(folder / f"{network}.npz", layers, weights)
    command = [environment(name) / "bin" / "python", RIVALS / name / "export.py", folder, *given]
    variables = os.environ | {"PYTHONPATH": str(BENCHMARKS), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    variables.pop("KERAS_BACKEND", None)
    result = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=LONGEST)
    if result.returncode:
        raise SystemExit(f"{name} did not export:\n{result.stderr[-2000:]}")
    seconds = json.loads((folder / "seconds.json").read_text())
    return {network: (folder / f"{network}.onnx", seconds[network]) for network in given}
