"""Three ways to ONNX side by side: ours, Keras' own export and plain torch.onnx.export, for three networks.

    python benchmarks/export.py [--rounds 41] [--json FILE]

The same weights go all three ways. Each file runs in onnxruntime on one thread, whose processor time is taken, so that
what other programs do in between does not count. In every round each file has one short turn, in random order, because
a machine's speed drifts; medians of the rounds are reported. Our file takes part twice, as `ours` and as `ours again`:
by as much as it differs from itself, others differ from it by chance. Export seconds are medians too, of a process that
has exported before. Needs the test dependencies (Keras).
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
from collections.abc import Callable
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import keras
import numpy as np
import onnx
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from conveyor_exporter import layers
from conveyor_exporter.models import Sequential
from conveyor_exporter.onnx_file.export import export_onnx, to_bytes
from conveyor_exporter.onnx_file.metadata import Metadata

BATCHES = (1, 32, 64)
SECONDS_PER_TURN = 0.02
EXPORTS = 5
AGAIN = "ours again"
INPUT = (28, 28, 1)

TUTORIAL = (
    ("Conv2D", {"filters": 16, "kernel_size": 3, "activation": "relu"}),
    ("Flatten", {}),
    ("Dense", {"units": 1, "activation": "sigmoid"}),
)
CLASSIC = (
    ("Conv2D", {"filters": 32, "kernel_size": 3, "activation": "relu"}),
    ("MaxPooling2D", {"pool_size": 2}),
    ("Conv2D", {"filters": 64, "kernel_size": 3, "activation": "relu"}),
    ("MaxPooling2D", {"pool_size": 2}),
    ("Flatten", {}),
    ("Dense", {"units": 128, "activation": "relu"}),
    ("Dense", {"units": 10, "activation": "softmax"}),
)
NORMALISED = (
    ("Conv2D", {"filters": 16, "kernel_size": 3, "strides": 2, "padding": "same", "use_bias": False}),
    ("BatchNormalization", {}),
    ("ReLU", {}),
    ("Conv2D", {"filters": 32, "kernel_size": 3, "padding": "same", "use_bias": False}),
    ("BatchNormalization", {}),
    ("ReLU", {}),
    ("GlobalAveragePooling2D", {}),
    ("Dense", {"units": 10, "activation": "softmax"}),
)
NETWORKS = {"tutorial": TUTORIAL, "classic": CLASSIC, "normalised": NORMALISED}
ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "softmax": lambda: nn.Softmax(1)}


class ChannelsFirst(nn.Module):
    """What a torch user writes in front of a network that takes pictures as they lie in memory."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[batch, height, width, channels] to [batch, channels, height, width]."""
        return inputs.permute(0, 3, 1, 2)


def ours(network: tuple) -> Sequential:
    """The network in our layers, with weights that do something."""
    torch.manual_seed(0)
    model = Sequential()
    model.add(layers.Input(shape=INPUT))
    for kind, options in network:
        model.add(getattr(layers, kind)(**options))
    generator = np.random.default_rng(0)
    for layer in model.layers:
        low, high = (0.5, 1.5) if isinstance(layer, layers.BatchNormalization) else (-0.1, 0.1)
        layer.set_weights([w if w.ndim > 1 else generator.uniform(low, high, w.shape) for w in layer.get_weights()])
    return model.eval()


def in_keras(network: tuple, model: Sequential) -> keras.Model:
    """The same network in Keras."""
    twin = keras.Sequential(
        [keras.Input(INPUT), *(getattr(keras.layers, kind)(**options) for kind, options in network)]
    )
    own = [layer for layer in model.layers if type(layer).__name__ != "Input"]
    for layer, mine in zip(twin.layers, own, strict=True):
        layer.set_weights(mine.get_weights())
    return twin


def in_torch(network: tuple, model: Sequential) -> nn.Module:
    """The same network as a torch user writes it, channels first."""
    parts: list[nn.Module] = [ChannelsFirst()]
    shape: tuple[int, ...] = INPUT
    flattened: tuple[int, ...] | None = None
    own = [layer for layer in model.layers if type(layer).__name__ != "Input"]
    for (kind, options), layer in zip(network, own, strict=True):
        weights = [torch.from_numpy(array) for array in layer.get_weights()]
        if kind == "Conv2D":
            size, stride = options["kernel_size"], options.get("strides", 1)
            if options.get("padding") == "same":
                total = max(0, (-(-shape[0] // stride) - 1) * stride + size - shape[0])
                parts.append(nn.ZeroPad2d((total // 2, total - total // 2, total // 2, total - total // 2)))
            part = nn.Conv2d(shape[-1], options["filters"], size, stride, bias=options.get("use_bias", True))
            part.weight.data = weights[0].permute(3, 2, 0, 1).contiguous()
            if part.bias is not None:
                part.bias.data = weights[1]
        elif kind == "BatchNormalization":
            part = nn.BatchNorm2d(shape[-1], eps=1e-3)
            part.weight.data, part.bias.data, part.running_mean.data, part.running_var.data = weights
        elif kind == "MaxPooling2D":
            part = nn.MaxPool2d(options["pool_size"])
        elif kind == "GlobalAveragePooling2D":
            part = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        elif kind == "Flatten":
            part, flattened = nn.Flatten(), shape
        elif kind == "ReLU":
            part = nn.ReLU()
        else:
            part = nn.Linear(weights[0].shape[0], options["units"])
            kernel = weights[0]
            if flattened:  # rows in (h, w, c) order to torch's (c, h, w)
                kernel = kernel.reshape(*flattened, -1).permute(2, 0, 1, 3).reshape(kernel.shape)
                flattened = None
            part.weight.data, part.bias.data = kernel.T.contiguous(), weights[1]
        parts.append(part)
        if "activation" in options:
            parts.append(ACTIVATIONS[options["activation"]]())
        shape = layer.output_shape_for(shape)
    return nn.Sequential(*parts).eval()


def export_all(network: tuple, folder: Path) -> dict[str, tuple[Path, float]]:
    """The network's three files, with the seconds that each took."""
    model = ours(network)
    twin, plain = in_keras(network, model), in_torch(network, model)
    twin(np.zeros((1, *INPUT), np.float32))  # Keras' export refuses a model that was never called
    units = model.layers[-1].units

    def own(path: Path) -> None:
        labels = [str(number) for number in range(max(2, units))]
        path.write_bytes(to_bytes(export_onnx(model, INPUT, Metadata.for_units(units, labels))))

    def keras_export(path: Path) -> None:
        twin.export(path, format="onnx", verbose=False)

    def torch_export(path: Path) -> None:
        batch = torch.export.Dim("batch")
        torch.onnx.export(
            plain, (torch.zeros(2, *INPUT),), path, dynamo=True, verbose=False, external_data=False,
            dynamic_shapes=({0: batch},),
        )  # fmt: skip

    ways = {"ours": own, "keras.export": keras_export, "torch.onnx": torch_export}
    return {name: timed_export(export, folder / f"{name}.onnx") for name, export in ways.items()}


def timed_export(export: Callable[[Path], None], path: Path) -> tuple[Path, float]:
    seconds = []
    for _ in range(EXPORTS):
        start = time.perf_counter()
        export(path)
        seconds.append(time.perf_counter() - start)
    return path, statistics.median(seconds)


def microseconds(session: onnxruntime.InferenceSession, images: np.ndarray) -> float:
    """Per image, over one short turn, in processor time of this thread."""
    name = session.get_inputs()[0].name
    runs, start = 0, time.thread_time()
    while (spent := time.thread_time() - start) < SECONDS_PER_TURN or not runs:
        session.run(None, {name: images})
        runs += 1
    return spent / runs / len(images) * 1e6


def measure(files: dict[str, tuple[Path, float]], rounds: int) -> dict[str, dict[str, float]]:
    """Size, nodes and speed of each file; a file that answers otherwise than ours is an error."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    paths = {name: path for name, (path, _) in files.items()}
    paths[AGAIN] = paths["ours"]
    sessions = {name: onnxruntime.InferenceSession(path, options) for name, path in paths.items()}
    generator = np.random.default_rng(0)
    probe = generator.random((5, *INPUT), np.float32)
    answers = {name: s.run(None, {s.get_inputs()[0].name: probe})[0] for name, s in sessions.items()}
    for name, answer in answers.items():
        difference = float(np.abs(answer - answers["ours"]).max())
        if difference > 1e-5:
            raise SystemExit(f"{name} answers otherwise than ours, by {difference:.2e}: the comparison would be void.")
    rows: dict[str, dict[str, float]] = {}
    for name, (path, seconds) in files.items():
        nodes = len(onnx.load(path).graph.node)
        rows[name] = {"nodes": nodes, "bytes": path.stat().st_size, "export s": seconds}
    rows[AGAIN] = dict(rows["ours"])
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


def verdicts(rows: dict[str, dict[str, float]]) -> dict[str, str]:
    """Of each column, how ours compares with the best of the others; level is what differs no more than by chance."""
    found = {}
    for column, own in rows["ours"].items():
        best = min(row[column] for name, row in rows.items() if name not in ("ours", AGAIN))
        again = rows[AGAIN][column]
        chance = 1.02 * max(own, again) / min(own, again) if column.startswith("µs") else 1
        if best / chance <= own <= best * chance:
            found[column] = "level"
        else:
            found[column] = f"{best / own:.2f}x better" if own < best else f"{own / best:.2f}x WORSE"
    return found


def main() -> None:
    """Measures, prints a table for each network, and writes the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41, help="rounds whose median is reported")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # of the other exporters; ours has none
    torch.set_num_threads(1)
    console, results = Console(), {}
    with tempfile.TemporaryDirectory() as folder:
        export_all(TUTORIAL, Path(folder))  # the first export of a process also loads the exporters
        for name, network in NETWORKS.items():
            with console.status(name):
                results[name] = measure(export_all(network, Path(folder)), arguments.rounds)
            table = Table(title=name)
            columns = list(results[name]["ours"])
            table.add_column("")
            for column in columns:
                table.add_column(column, justify="right")
            for way, row in results[name].items():
                table.add_row(
                    way, *(f"{row[column]:,.4g}" if row[column] % 1 else f"{row[column]:,}" for column in columns)
                )
            verdict = verdicts(results[name])
            table.add_section()
            table.add_row("ours to the best", *(verdict[column] for column in columns))
            console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
