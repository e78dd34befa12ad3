"""What a call costs its caller, and what gathering brings: `python benchmarks/client.py`. docs/client.md quotes it.

One real server on one core, this process on the other. Everybody asks the same server for the same images, in
alternating rounds: a bare grpcio stub with the code that its user would write around it, our client, and tritonclient.
CPU time is that of this whole process, grpc's threads included; ratios are taken within a round, and medians printed.
"""

import argparse
import asyncio
import dataclasses
import resource
import shlex
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from conveyor_server.client import AsyncClient, Client
from conveyor_server.generated import inference_pb2 as pb
from harness import network
from harness.network import NAME as MODEL
from harness.rounds import SERVER_CORE, prepare
from harness.running import RunningServer
from harness.servers import SERVERS, Kind

METHOD = "/inference.GRPCInferenceService/ModelInfer"
IMAGE = network.images(1)
GATHERING = {
    "one request a call": {},
    "gathered": {"gather_rows": 64},
    "gathered, 2 connections": {"gather_rows": 64, "connections": 2},
    "gathered, delay of 1 ms": {"gather_rows": 64, "gather_delay": 0.001},
}

Round = dict[str, tuple[float, float, float]]
"""Microseconds for each call: of this process's CPU, of the server's CPU, and from the first to the last."""


def compose(images: np.ndarray) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="image", datatype="FP32", shape=images.shape)
    request.raw_input_contents.append(images.tobytes())
    return request


def decode(response: pb.ModelInferResponse) -> np.ndarray:
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)


def triton_input(images: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    return tensor


class Meter:
    """Times what happens in its `with` block."""

    def __init__(self, server: RunningServer, calls: int) -> None:
        self._server = server
        self._calls = calls

    def __enter__(self) -> "Meter":
        self._before = self._now()
        return self

    def __exit__(self, *error: object) -> None:
        spent = (after - before for before, after in zip(self._before, self._now(), strict=True))
        self.microseconds = tuple(seconds / self._calls * 1e6 for seconds in spent)

    def _now(self) -> tuple[float, float, float]:
        own = resource.getrusage(resource.RUSAGE_SELF)
        return own.ru_utime + own.ru_stime, self._server.cpu_seconds(), time.perf_counter()


def blocking_round(askers: dict[str, Callable[[], object]], server: RunningServer, calls: int) -> Round:
    found: Round = {}
    for name, ask in askers.items():
        with Meter(server, calls) as meter:
            for _ in range(calls):
                ask()
        found[name] = meter.microseconds
    return found


async def asyncio_round(
    askers: dict[str, Callable[[], Awaitable[object]]], server: RunningServer, calls: int, in_flight: int
) -> Round:
    async def caller(ask: Callable[[], Awaitable[object]]) -> None:
        for _ in range(calls // in_flight):
            await ask()

    found: Round = {}
    for name, ask in askers.items():
        with Meter(server, calls // in_flight * in_flight) as meter:
            await asyncio.gather(*(caller(ask) for _ in range(in_flight)))
        found[name] = meter.microseconds
    return found


def measure_blocking(server: RunningServer, options: argparse.Namespace, rows: int) -> list[Round]:
    images, calls = np.repeat(IMAGE, rows, axis=0), max(40, options.calls // rows)
    url = f"127.0.0.1:{server.port}"
    with grpc.insecure_channel(url) as channel, Client(url) as client, triton.InferenceServerClient(url) as rival:
        stub = channel.unary_unary(METHOD, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
        askers = {
            "grpcio stub": lambda: decode(stub(compose(images), timeout=10)),
            "Client": lambda: client.predict(MODEL, images),
            "tritonclient": lambda: rival.infer(MODEL, [triton_input(images)], client_timeout=10).as_numpy(
                "probability"
            ),
        }
        blocking_round(askers, server, 50)
        return [blocking_round(askers, server, calls) for _ in range(options.rounds)]


async def measure_asyncio(server: RunningServer, options: argparse.Namespace, in_flight: int) -> list[Round]:
    url = f"127.0.0.1:{server.port}"
    async with (
        grpc.aio.insecure_channel(url) as channel,
        AsyncClient(url) as client,
        triton_aio.InferenceServerClient(url) as rival,
    ):
        stub = channel.unary_unary(METHOD, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)

        async def by_stub() -> np.ndarray:
            return decode(await stub(compose(IMAGE), timeout=10))

        async def by_rival() -> np.ndarray:
            return (await rival.infer(MODEL, [triton_input(IMAGE)], client_timeout=10)).as_numpy("probability")

        askers = {
            "grpcio stub": by_stub,
            "AsyncClient": lambda: client.predict(MODEL, IMAGE),
            "tritonclient": by_rival,
        }
        await asyncio_round(askers, server, 64, in_flight)
        return [await asyncio_round(askers, server, options.calls, in_flight) for _ in range(options.rounds)]


def measure_gathering_threads(server: RunningServer, options: argparse.Namespace) -> list[Round]:
    """Callers are threads, each of which asks for one image after another."""
    clients = {name: Client(f"127.0.0.1:{server.port}", **how) for name, how in GATHERING.items()}

    def caller(client: Client, calls: int) -> None:
        for _ in range(calls):
            client.predict(MODEL, IMAGE)

    def round_of(calls: int) -> Round:
        found: Round = {}
        for name, client in clients.items():
            with Meter(server, calls * options.callers) as meter:
                for done in [pool.submit(caller, client, calls) for _ in range(options.callers)]:
                    done.result()
            found[name] = meter.microseconds
        return found

    with ThreadPoolExecutor(options.callers) as pool:
        round_of(2)
        rounds = [round_of(options.calls // 16) for _ in range(options.rounds)]
    for client in clients.values():
        client.close()
    return rounds


async def measure_gathering_asyncio(server: RunningServer, options: argparse.Namespace) -> list[Round]:
    """The same with tasks."""
    clients = {name: AsyncClient(f"127.0.0.1:{server.port}", **how) for name, how in GATHERING.items()}
    askers = {name: lambda client=client: client.predict(MODEL, IMAGE) for name, client in clients.items()}
    await asyncio_round(askers, server, options.callers, options.callers)
    calls = options.calls // 16 * options.callers
    rounds = [await asyncio_round(askers, server, calls, options.callers) for _ in range(options.rounds)]
    for client in clients.values():
        await client.close()
    return rounds


def report(title: str, rounds: list[Round]) -> str:
    lines = [f"\n{title:28}  calls/s  client CPU µs  of the first  server CPU µs"]
    first = next(iter(rounds[0]))
    for name in rounds[0]:
        own, servers, wall = (statistics.median(one[name][number] for one in rounds) for number in range(3))
        ratio = statistics.median(one[name][0] / one[first][0] for one in rounds)
        lines.append(f"{name:28}  {1e6 / wall:7.0f}  {own:13.0f}  {ratio:12.2f}  {servers:13.0f}")
    return "\n".join(lines)


def main() -> None:
    ours = {server.name: server for server in SERVERS if server.kind is Kind.OURS and server.cores == 1}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=640, help="in each round, for each asker")
    parser.add_argument("--callers", type=int, default=64, help="at the same time, where gathering is measured")
    parser.add_argument("--server", choices=list(ours), default="conveyor-grpcio")
    parser.add_argument("--flags", type=shlex.split, default=[], help="more flags for the server")
    options = parser.parse_args()
    server = dataclasses.replace(ours[options.server], flags=tuple(options.flags))
    prepare([server])
    with RunningServer(server, [SERVER_CORE]) as running:
        print(report("1 image, 1 in flight", measure_blocking(running, options, 1)))
        print(report("256 images, 1 in flight", measure_blocking(running, options, 256)))
        for in_flight in (1, 16, 64):
            print(report(f"1 image, {in_flight} tasks", asyncio.run(measure_asyncio(running, options, in_flight))))
        print(report(f"{options.callers} threads", measure_gathering_threads(running, options)))
        print(report(f"{options.callers} tasks", asyncio.run(measure_gathering_asyncio(running, options))))


if __name__ == "__main__":
    main()
