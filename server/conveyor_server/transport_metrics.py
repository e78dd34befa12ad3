"""What carries gRPC, as Prometheus sees it. Knows a transport by what it says of itself."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from conveyor_server.transports import GrpcServer


class TransportMetrics(Collector):
    """The metrics of a transport.

    Args:
        transport: gives it; asked at each look, for it comes later than this.
    """

    def __init__(self, transport: Callable[[], GrpcServer]) -> None:
        self._transport = transport

    def collect(self) -> Iterator[Metric]:
        """All families, for the registry."""
        transport = self._transport()
        yield GaugeMetricFamily(
            "conveyor_connections", "Open connections of gRPC, where the transport knows them.", transport.connections
        )
        closed = CounterMetricFamily(
            "conveyor_closed_connections", "Connections of gRPC that the server closed, by why.", labels=["reason"]
        )
        for reason, count in transport.endings.items():
            closed.add_metric([reason], count)
        yield closed
