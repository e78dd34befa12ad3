"""How a server behaves under several times the load that it can bear: `python benchmarks/overload.py`.

The server is pinned to one core, the load generator runs on another. First the sustainable rate is measured: what it
answers when it is always busy and never overrun. Then a multiple of that rate is offered, each request with a deadline,
for a minute. Goodput counts requests answered with outputs within their deadline.

Any server of the protocol can be measured: `--command "… {port}" --port 9001 --model NAME`. It must serve a model with
input `image` FP32 [batch, 28, 28, 1]; the model that ours serves is written to `--repository` if that is not there.
"""

import argparse
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
from open_loop import NO_ANSWER, Outcomes, Target, closed_loop, open_loop, quantile

from conveyor_server.generated import inference_pb2 as pb

CODES = {NO_ANSWER: "no answer", 0: "OK", 1: "CANCELLED", 4: "DEADLINE_EXCEEDED", 8: "RESOURCE_EXHAUSTED"}
CODES |= {13: "INTERNAL", 14: "UNAVAILABLE"}
REFUSALS = (1, 8, 14)
"""CANCELLED is how grpc resets a call that it has no room for; what the client gives up is NO_ANSWER."""


def small_network() -> onnx.ModelProto:
    """Conv 16 3x3, relu, dense 1, sigmoid on 28x28 grey pixels, with random weights."""
    random = np.random.default_rng(0)
    kernels = numpy_helper.from_array(random.normal(0, 0.1, (16, 1, 3, 3)).astype(np.float32), "kernels")
    weights = numpy_helper.from_array(random.normal(0, 0.01, (16 * 26 * 26, 1)).astype(np.float32), "weights")
    shape = numpy_helper.from_array(np.array([0, 1, 28, 28], np.int64), "channels_first")
    nodes = [
        helper.make_node("Reshape", ["image", "channels_first"], ["grey"]),
        helper.make_node("Conv", ["grey", "kernels"], ["convolved"]),
        helper.make_node("Relu", ["convolved"], ["rectified"]),
        helper.make_node("Flatten", ["rectified"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 28, 28, 1])]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 1])]
    graph = helper.make_graph(nodes, "overload", inputs, outputs, [kernels, weights, shape])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def request(model: str, rows: int) -> bytes:
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="image", datatype="FP32", shape=[rows, 28, 28, 1])
    pixels = np.random.default_rng(1).random((rows, 28, 28, 1), np.float32)
    message.raw_input_contents.append(pixels.tobytes())
    return message.SerializeToString()


@dataclass
class Server:
    """A process pinned to one core, and what it says of itself."""

    process: subprocess.Popen
    port: int
    metrics: str | None
    resident: list[float] = field(default_factory=list)
    """MiB, once a second."""

    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def watch(self, stop: threading.Event) -> None:
        while not stop.wait(1.0):
            with open(f"/proc/{self.process.pid}/status") as status:
                self.resident.append(int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024)

    def scrape(self) -> dict[str, float]:
        if self.metrics is None:
            return {}
        with urllib.request.urlopen(self.metrics, timeout=30) as page:
            lines = [line.rsplit(" ", 1) for line in page.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}


def start(options: argparse.Namespace) -> Server:
    if options.command:
        command, patience = options.command.format(port=options.port), time.monotonic() + 120
        process = subprocess.Popen(["taskset", "-c", str(options.server_core), *shlex.split(command)])
        while time.monotonic() < patience:
            try:
                if 0 in closed_loop(Target("127.0.0.1", options.port, request(options.model, 1), 5, 1), 1, 0.5).status:
                    return Server(process, options.port, None)
            except OSError:
                time.sleep(0.2)
        raise SystemExit("The server did not answer within two minutes.")
    model = options.repository / options.model / "1" / "model.onnx"
    if not model.exists():
        model.parent.mkdir(parents=True)
        model.write_bytes(small_network().SerializeToString())
    command = ["taskset", "-c", str(options.server_core), sys.executable, "-m", "conveyor_server"]
    command += ["--repository", str(options.repository), "--grpc-port", "0", "--http-port", "0", *options.server_flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    ports = None
    for line in process.stderr:
        sys.stderr.write(line)
        ports = ports or re.search(r"gRPC on \S+:(\d+), HTTP on \S+:(\d+)", line)
        if "Ready: " in line:
            threading.Thread(target=lambda: [None for _ in process.stderr], daemon=True).start()
            return Server(process, int(ports[1]), f"http://127.0.0.1:{ports[2]}/metrics")
    raise SystemExit("The server ended before it was ready.")


def core_busy(core: int) -> float:
    with open("/proc/stat") as stat:
        line = next(line for line in stat if line.startswith(f"cpu{core} "))
    values = [int(value) for value in line.split()[1:9]]
    return (sum(values) - values[3] - values[4]) / os.sysconf("SC_CLK_TCK")


def report(outcomes: Outcomes, timeout: float) -> dict[str, object]:
    """What a run was like for its clients; latencies in milliseconds."""
    by_status: dict[int, list[float]] = {}
    for status, latency in zip(outcomes.status, outcomes.latency, strict=True):
        by_status.setdefault(status, []).append(latency)
    answered = by_status.get(0, [])
    refused = [latency for status in REFUSALS for latency in by_status.get(status, [])]
    within = sum(latency <= timeout for latency in answered)
    return {
        "offered_per_second": round(len(outcomes.status) / outcomes.seconds, 1),
        "goodput_per_second": round(within / outcomes.seconds, 1),
        "codes": {CODES.get(status, str(status)): len(group) for status, group in sorted(by_status.items())},
        "answered_p50_ms": round(quantile(answered, 0.5) * 1e3, 2),
        "answered_p99_ms": round(quantile(answered, 0.99) * 1e3, 2),
        "answered_late": len(answered) - within,
        "refused_p50_ms": round(statistics.median(refused) * 1e3, 2) if refused else None,
        "refused_p99_ms": round(quantile(refused, 0.99) * 1e3, 2) if refused else None,
        "client_late_ms": round(outcomes.late * 1e3, 2),
    }


def median_of(histogram: str, before: dict[str, float], after: dict[str, float]) -> float | None:
    """The bound under which half of what a histogram took in between two scrapes lies, in milliseconds."""
    counts: dict[float, float] = {}
    for name, value in after.items():
        if found := re.match(rf"{histogram}_bucket{{.*le=\"([^\"]+)\"", name):
            counts[float(found[1])] = counts.get(float(found[1]), 0) + value - before.get(name, 0)
    total = counts.get(float("inf"), 0)
    return next((bound * 1e3 for bound, count in sorted(counts.items()) if count >= total / 2), None) if total else None


def measure(server: Server, options: argparse.Namespace) -> dict[str, object]:
    target = Target("127.0.0.1", server.port, request(options.model, 1), options.deadline / 1e3, options.connections)
    closed_loop(target, 64, 2.0)  # warm
    calm = [report(closed_loop(target, 64, 4.0), target.timeout) for _ in range(3)]
    sustainable = statistics.median(run["goodput_per_second"] for run in calm)
    stop = threading.Event()
    watcher = threading.Thread(target=server.watch, args=[stop])
    watcher.start()
    before, cpu, busy, begin = server.scrape(), server.cpu_seconds(), core_busy(options.server_core), time.monotonic()
    overload = report(open_loop(target, sustainable * options.factor, options.seconds), target.timeout)
    elapsed, cpu, busy = time.monotonic() - begin, server.cpu_seconds() - cpu, core_busy(options.server_core) - busy
    after = server.scrape()
    stop.set()
    watcher.join()
    again = report(closed_loop(target, 64, 4.0), target.timeout)
    resident = server.resident
    return {
        "sustainable_per_second": sustainable,
        "deadline_ms": options.deadline,
        "factor": options.factor,
        "overload": overload,
        "goodput_ratio": round(overload["goodput_per_second"] / sustainable, 3),
        "afterwards_per_second": again["goodput_per_second"],
        "server_refusal_p50_ms": median_of("conveyor_refusal_duration_seconds", before, after),
        "server_cpu": round(cpu / elapsed, 2),
        "others_on_the_server_core": round(max(0.0, busy - cpu) / elapsed, 2),
        "resident_mib": [round(resident[0]), round(resident[-1])] if resident else [],
        "resident_mib_by_second": [round(value, 1) for value in resident],
    }


def table(result: dict[str, object]) -> str:
    overload = result["overload"]
    rows = [
        ("sustainable rate", f"{result['sustainable_per_second']:.0f}/s"),
        ("offered", f"{overload['offered_per_second']:.0f}/s, each with {result['deadline_ms']:g} ms"),
        ("goodput", f"{overload['goodput_per_second']:.0f}/s = {result['goodput_ratio']:.0%} of the sustainable rate"),
        ("answered", f"p50 {overload['answered_p50_ms']} ms, p99 {overload['answered_p99_ms']} ms"),
        ("refused, at the client", f"p50 {overload['refused_p50_ms']} ms, p99 {overload['refused_p99_ms']} ms"),
        ("refused, at the server", f"p50 at most {result['server_refusal_p50_ms']} ms"),
        ("codes", ", ".join(f"{code} {count}" for code, count in overload["codes"].items())),
        ("memory", " → ".join(f"{value} MiB" for value in result["resident_mib"])),
        ("rate right afterwards", f"{result['afterwards_per_second']:.0f}/s"),
        ("server core", f"server {result['server_cpu']:.0%}, others {result['others_on_the_server_core']:.0%}"),
        ("client late by at most", f"{overload['client_late_ms']} ms"),
    ]
    return "\n".join(f"{name:24}{value}" for name, value in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long the overload lasts")
    parser.add_argument("--factor", type=float, default=3, help="offered rate, in sustainable rates")
    parser.add_argument("--deadline", type=float, default=100, help="of each request, in milliseconds")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--repository", type=Path, default=Path(".benchmarks/models"))
    parser.add_argument("--model", default="overload")
    parser.add_argument("--command", help="starts another server in the foreground, with {port}")
    parser.add_argument("--port", type=int, default=9001, help="of that server")
    parser.add_argument("--server-flags", type=shlex.split, default=[], help="more flags for our server")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    server = start(options)
    os.sched_setaffinity(0, {options.client_core})
    try:
        result = measure(server, options)
    finally:
        server.process.send_signal(signal.SIGINT)
        server.process.wait(60)
    print(table(result))
    if result["others_on_the_server_core"] > 0.05 or result["overload"]["client_late_ms"] > options.deadline / 2:
        print("The machine was not quiet: something else ran on these cores, so the figures are too low.")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
