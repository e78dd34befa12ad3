"""What the export.py of every rival does around its own export. Runs in the rival's environment."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from harness.exporters import networks
from harness.exporters.networks import Network, Weights
from harness.exporters.timing import timed_export


def export_all(way: Callable[[Network, Weights], Callable[[Path], None]]) -> None:
    """Run `export.py FOLDER NETWORK...`: of each NETWORK.npz makes NETWORK.onnx, and notes the time in seconds.json.

    Args:
        way: makes of a network and its weights what writes its file.
    """
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    exports = {name: way(*networks.load(folder / f"{name}.npz")) for name in names}
    exports[names[0]](folder / "first.onnx")  # the first export of a process also loads what it needs
    seconds = {name: timed_export(export, folder / f"{name}.onnx") for name, export in exports.items()}
    (folder / "seconds.json").write_text(json.dumps(seconds))
