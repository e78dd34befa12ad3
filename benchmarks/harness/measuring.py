"""One load on one server, timed: rate, latency, CPU time, and what disturbed the measurement."""

from collections.abc import Callable, Sequence

from harness import grpcio_client, network, perf_analyzer
from harness.asking import MODEL_INFER, MODEL_STREAM_INFER, PREFIX, ask_and_check
from harness.h2load import Shot
from harness.rows import Generator, Row
from harness.running import RunningServer
from harness.watching import Watched

DISTURBED = 0.05
"""Cores, taken by others, from which on a measurement is repeated."""
_WARM_SECONDS = 0.3
_LEAST_TURNS = 4
"""Requests of a measurement, at the least, in those that are in flight."""

Window = dict[str, float]


def measure(running: RunningServer, row: Row, load_cores: Sequence[int], seconds: float, tries: int) -> Window:
    """The calmest of up to `tries` measurements of about `seconds` each; a calm one needs no other.

    Returns:
        requests, requests_per_second, images_per_second, p50_ms, p99_ms; cpu_us: of the server's processes a request;
        the shares of `Watched`; tries: how many measurements there were.

    Raises:
        Void: an answer was not right.
    """
    fire = _generator(running, row, load_cores, seconds)
    windows: list[Window] = []
    while len(windows) < tries and (not windows or noise(windows[-1]) > DISTURBED):
        windows.append(_observed(running, row, load_cores, fire))
    return calmest(windows) | {"tries": len(windows)}


def noise(window: Window) -> float:
    """Cores that were taken by others."""
    return window["stolen"] + window["others"]


def calmest(windows: Sequence[Window]) -> Window:
    """The one that others disturbed least."""
    return min(windows, key=noise)


def _observed(
    running: RunningServer, row: Row, load_cores: Sequence[int], fire: Callable[[], dict[str, float]]
) -> Window:
    with Watched(running, load_cores) as watched:
        figures = fire()
    return figures | {
        "images_per_second": figures["requests_per_second"] * row.images,
        "cpu_us": watched.server_seconds / figures["requests"] * 1e6,
        **watched.shares(),
    }


def _generator(
    running: RunningServer, row: Row, load_cores: Sequence[int], seconds: float
) -> Callable[[], dict[str, float]]:
    """What puts the load on for about so long, after the answer to it was found right and the server is warm."""
    pixels = network.images(row.images, row.datatype)
    answer = ask_and_check(running.server, running.port, pixels, stream=bool(row.stream))
    connections, each = row.connections(running.server)
    if row.generator is Generator.PERF_ANALYZER:
        return lambda: perf_analyzer.fire(running.port, row.in_flight, load_cores, seconds)
    if row.generator is Generator.GRPCIO:
        message = network.message(pixels)
        return lambda: grpcio_client.fire(
            running.port, message, answer.size - PREFIX, row.in_flight, load_cores, seconds
        )
    shot = _shot(running, row, pixels, answer.size, (connections, each), load_cores)
    least = _LEAST_TURNS * connections * each
    rate = shot.fire(max(least, 20))["requests_per_second"]
    rate = shot.fire(max(least, int(rate * min(_WARM_SECONDS, seconds))))["requests_per_second"]
    requests = max(least, int(rate * seconds))
    if not row.stream:
        return lambda: shot.fire(requests)
    return lambda: _per_message(shot.fire(requests), row.stream)


def _shot(
    running: RunningServer, row: Row, pixels, answer_bytes: int, shape: tuple[int, int], load_cores: Sequence[int]
) -> Shot:
    server, host = running.server, f"http://127.0.0.1:{running.port}"
    if server.protocol != "gRPC":
        return Shot(host + server.path, False, pixels.tobytes(), answer_bytes, *shape, load_cores)
    message = network.message(pixels)
    body = b"\0" + len(message).to_bytes(4, "big") + message
    if not row.stream:
        return Shot(host + MODEL_INFER, True, body, answer_bytes, *shape, load_cores)
    return Shot(host + MODEL_STREAM_INFER, True, body * row.stream, answer_bytes * row.stream, *shape, load_cores)


def _per_message(figures: dict[str, float], messages: int) -> dict[str, float]:
    """The figures of streams as those of their requests; latencies stay those of a whole stream."""
    return figures | {
        "requests": figures["requests"] * messages,
        "requests_per_second": figures["requests_per_second"] * messages,
    }
