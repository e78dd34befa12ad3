"""What one request costs inside the process, sockets aside: `python benchmarks/request_path.py`.

Frames of real requests go through the server's own session, handlers and batcher in this process, and the answers come
out as frames; nothing waits for anything. So the figures hardly vary, and a change of a tenth of a microsecond shows.
The library's share is what it takes to do the same by itself, with answers of the same size and nothing in between.

With --sample it also says where the rest goes: the innermost function of ours, looked up a thousand times a second.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import struct
from collections import Counter
from collections.abc import Iterator
from time import perf_counter
from types import FrameType

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import ngh2
from rich.console import Console

from conveyor_server.inference_server import InferenceServer
from conveyor_server.security import Security
from conveyor_server.settings import Settings, Transport
from conveyor_server.wire.h2.admission import Admission
from conveyor_server.wire.h2.headers import OK, RESPONSE
from conveyor_server.wire.h2.limits import Limits
from conveyor_server.wire.h2.session import CONNECTION_WINDOW, Session, Shared
from conveyor_server.wire.traffic import Traffic
from harness import network
from harness.asking import MODEL_INFER
from harness.medians import median
from harness.running import MODELS
from harness.tables import Table

HEADERS = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", MODEL_INFER.encode()),
    (b":authority", b"127.0.0.1:8001"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
WARM = 100
TURNS = 1000
"""Of the event loop, in which all must be answered."""
SECONDS_A_SAMPLE = 0.001
OURS = f"{os.sep}conveyor_server{os.sep}"


class Peer:
    """The client's end of a connection."""

    def __init__(self, message: bytes) -> None:
        self._http2 = ngh2.Connection(ngh2.Role.CLIENT)
        self._http2.initiate_connection({})
        self._body = struct.pack(">BI", 0, len(message)) + message

    def ask(self, count: int, *timeout: tuple[bytes, bytes]) -> tuple[memoryview, list[int]]:
        """So many requests, as bytes, and their streams."""
        streams = []
        for _ in range(count):
            streams.append(self._http2.send_request((*HEADERS, *timeout)))
            self._http2.send_data(streams[-1], self._body, end_stream=True)
        return memoryview(self.output()), streams

    def output(self) -> bytes:
        """All that it has to send."""
        pieces = []
        while piece := self._http2.data_to_send():
            pieces.append(piece)
        return b"".join(pieces)

    def read(self, data: bytes) -> int:
        """Takes answers; returns how many bytes of messages were in them."""
        self._http2.receive_data(data)
        return sum(len(event.data) for event in self._http2.events() if isinstance(event, ngh2.DataReceived))

    @property
    def size(self) -> int:
        return len(self._body)


class InProcess:
    """One connection to a server in this process.

    Args:
        server: the server.
        message: what is asked.
        together: requests that come at once.
    """

    def __init__(self, server: InferenceServer, message: bytes, together: int) -> None:
        routes = {
            f"/{of}/{name}".encode(): rpc for of, rpcs in server.service.rpcs.items() for name, rpc in rpcs.items()
        }
        self._traffic = Traffic()
        self._admission = Admission(self._traffic, 1000)
        self._session = Session(Shared(routes, Limits(), self._traffic, None, self._admission), lambda: None)
        self._peer = Peer(message)
        self._together = together
        self._statistics = server.repository.get(network.NAME, "").statistics
        self._settle()

    @property
    def _running(self) -> float:
        """Seconds in the runtime so far."""
        return sum(batch.compute_infer.seconds for batch in self._statistics.batches.values())

    def _settle(self) -> None:
        while data := self._peer.output():
            self._session.receive(memoryview(data))
            self._peer.read(self._session.output(2**20))

    async def answered(self) -> tuple[float, float]:
        """Microseconds a request in our code and the library, and in the runtime."""
        data, _ = self._peer.ask(self._together)
        session, before = self._session, self._running
        begin = perf_counter()
        session.receive(data)
        for _ in range(TURNS):
            if not session.calls:
                break
            await asyncio.sleep(0)
        output = session.output(2**20)
        spent = perf_counter() - begin
        running = self._running - before
        if session.calls or not self._peer.read(output):
            raise SystemExit("The requests were not answered; what was measured is something else.")
        self._settle()
        return (spent - running) / self._together * 1e6, running / self._together * 1e6

    def refused(self) -> float:
        """Microseconds a request that has less time than it would take."""
        data, _ = self._peer.ask(self._together, (b"grpc-timeout", b"10m"))
        self._admission.margin = 1.0
        self._traffic.begin()
        begin = perf_counter()
        self._session.receive(data)
        output = self._session.output(2**20)
        spent = perf_counter() - begin
        self._traffic.end()
        self._admission.margin = 0.0
        if self._peer.read(output) or self._session.calls:
            raise SystemExit("The requests were not refused; what was measured is something else.")
        self._settle()
        return spent / self._together * 1e6


class Library:
    """The same without us.

    Args:
        message: what is asked.
        together: requests that come at once.
        answer: bytes of each answer.
    """

    def __init__(self, message: bytes, together: int, answer: bytes) -> None:
        self._http2 = ngh2.Connection(ngh2.Role.SERVER, ngh2.Configuration(auto_window_update=False))
        self._http2.initiate_connection({ngh2.Setting.MAX_CONCURRENT_STREAMS: 1000})
        self._http2.set_local_window_size(CONNECTION_WINDOW)
        self._peer = Peer(message)
        self._together = together
        self._answer = answer
        self._settle()

    def _settle(self) -> None:
        while data := self._peer.output():
            self._http2.receive_data(data)
            self._http2.events()
            self._peer.read(self._http2.data_to_send(2**20))

    def answered(self) -> float:
        """Microseconds a request."""
        data, streams = self._peer.ask(self._together)
        http2 = self._http2
        begin = perf_counter()
        http2.receive_data(data)
        http2.events()
        for stream in streams:
            http2.acknowledge_received_data(self._peer.size, stream)
            http2.send_response(stream, RESPONSE[b"identity"])
            http2.send_data(stream, self._answer)
            http2.send_trailers(stream, OK)
        output = http2.data_to_send(2**20)
        http2.events()
        spent = perf_counter() - begin
        self._peer.read(output)
        self._settle()
        return spent / self._together * 1e6


@contextlib.contextmanager
def sampled(found: Counter[str]) -> Iterator[None]:
    """Counts the innermost functions of ours, by processor time."""

    def look(_number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if OURS in frame.f_code.co_filename:
                file = frame.f_code.co_filename.partition(OURS)[2]
                found[f"{file}  {frame.f_code.co_qualname}"] += 1
                return
            frame = frame.f_back

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, SECONDS_A_SAMPLE, SECONDS_A_SAMPLE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def whereabouts(found: Counter[str], microseconds: float, rows: int) -> Table:
    """The functions in which most of the time goes that a request takes outside of runs."""
    for name in [name for name in found if name.startswith("engine/onnx_model")]:
        del found[name]
    total = found.total()
    table = Table(f"Where {microseconds:.1f} µs go, of {total:,} samples", ["µs", "innermost function of ours"])
    table.rows = [[f"{microseconds * count / total:.2f}", name] for name, count in found.most_common(rows)]
    return table


async def measure(options: argparse.Namespace) -> None:
    repository = MODELS / network.TUTORIAL
    network.write_repository(repository)
    settings = Settings(repository=str(repository), transport=Transport.H2, grpc_port=0, workers=1)
    server = InferenceServer(settings, repository, None, Security(settings))
    await server.load()
    message = network.message(network.images(1))
    connection, library = InProcess(server, message, options.together), Library(message, options.together, b"x" * 80)
    answered = [await connection.answered() for _ in range(WARM + options.times)][WARM:]
    refused = [connection.refused() for _ in range(WARM + options.times)][WARM:]
    alone = [library.answered() for _ in range(WARM + options.times)][WARM:]
    columns = {"answered, without the run": [ours for ours, _ in answered], "its run": [run for _, run in answered]}
    columns |= {"refused by its headers": refused, "answered by the library alone": alone}
    table = Table(f"µs a request of one image, {options.together} at once", ["", "least", "median"])
    table.rows = [[name, f"{min(values):.2f}", f"{median(values):.2f}"] for name, values in columns.items()]
    Console(width=120).print(table.for_terminal())
    if options.sample:
        found: Counter[str] = Counter()
        with sampled(found):
            for _ in range(20 * options.times):
                await connection.answered()
        ours = median(columns["answered, without the run"])
        Console(width=120).print(whereabouts(found, ours, options.sample).for_terminal())
    await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--together", type=int, default=32, help="requests that come at once")
    parser.add_argument("--times", type=int, default=500, help="how often they come")
    parser.add_argument("--sample", type=int, default=0, metavar="ROWS", help="look where the time goes; so many lines")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
