"""What is asked of the servers: one row for each kind of load."""

from dataclasses import dataclass
from enum import StrEnum

from harness.servers import Kind, Server


class Generator(StrEnum):
    """Who asks."""

    H2LOAD = "h2load"
    PERF_ANALYZER = "perf_analyzer"
    GRPCIO = "grpcio"


class For(StrEnum):
    """Which servers are asked."""

    ALL = "all"
    GRPC = "gRPC servers"
    STREAMS = "servers with ModelStreamInfer"
    PERF_ANALYZER = "servers that perf_analyzer can drive"
    OURS = "ours"


@dataclass(frozen=True)
class Row:
    """A load."""

    name: str
    title: str
    images: int
    """In each request."""
    in_flight: int
    servers: For = For.ALL
    generator: Generator = Generator.H2LOAD
    datatype: str = "FP32"
    stream: int = 0
    """Requests on one stream; 0 for plain calls."""
    headline: bool = False
    """Measured in every round; the others in three."""

    def applies_to(self, server: Server) -> bool:
        match self.servers:
            case For.ALL:
                return True
            case For.GRPC:
                return server.protocol == "gRPC"
            case For.STREAMS:
                return server.streams
            case For.PERF_ANALYZER:
                return server.perf_analyzer
            case For.OURS:
                return server.kind is Kind.OURS

    def connections(self, server: Server) -> tuple[int, int]:
        """How many connections share the load, and how many requests each has in flight.

        HTTP/1.1 has one in flight a connection. HTTP/2 has up to 32, and 64 go over four connections, or eight where
        several processes share the port.
        """
        if server.protocol != "gRPC":
            return self.in_flight, 1
        if self.stream:
            return self.in_flight // self.stream, 1
        connections = 1 if self.in_flight <= 32 else 4
        if server.workers > 1:
            connections = min(8, self.in_flight)
        return connections, self.in_flight // connections


ROWS = (
    Row("single-1", "1 image, 1 in flight", 1, 1, headline=True),
    Row("single-32", "1 image, 32 in flight", 1, 32, headline=True),
    Row("single-64", "1 image, 64 in flight", 1, 64, headline=True),
    Row("batch-8", "8 images, 16 in flight", 8, 16, headline=True),
    Row("batch-32", "32 images, 16 in flight", 32, 16, headline=True),
    Row("batch-1000", "1,000 images, 4 in flight", 1000, 4, For.OURS, headline=True),
    Row("stream-64", "1 image, 64 on one stream", 1, 64, For.STREAMS, stream=64),
    Row("uint8-single-64", "1 image of bytes, 64 in flight", 1, 64, For.OURS, datatype="UINT8"),
    Row("uint8-batch-32", "32 images of bytes, 16 in flight", 32, 16, For.OURS, datatype="UINT8"),
    Row("analyzer-1", "perf_analyzer, 1 image, 1 in flight", 1, 1, For.PERF_ANALYZER, Generator.PERF_ANALYZER),
    Row("analyzer-32", "perf_analyzer, 1 image, 32 in flight", 1, 32, For.PERF_ANALYZER, Generator.PERF_ANALYZER),
    Row("python-1", "grpcio client, 1 image, 1 in flight", 1, 1, For.GRPC, Generator.GRPCIO),
    Row("python-32", "grpcio client, 1 image, 32 in flight", 1, 32, For.GRPC, Generator.GRPCIO),
)
