"""Certificates and tokens as Prometheus sees them. Knows what they are, not how they are checked."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from conveyor_server.core.errors import NotPermitted, Unauthenticated
from conveyor_server.wire.access import Access
from conveyor_server.wire.certificates import Certificates
from conveyor_server.wire.status import STATUS_OF


class SecurityMetrics(Collector):
    """The metrics of what keeps strangers out.

    Args:
        certificates: None without TLS.
        access: None without tokens.
    """

    def __init__(self, certificates: Certificates | None, access: Access | None) -> None:
        self._certificates = certificates
        self._access = access

    def collect(self) -> Iterator[Metric]:
        """All families, for the registry."""
        expires = self._certificates.material.expires if self._certificates else None
        yield GaugeMetricFamily(
            "conveyor_certificate_expiry_timestamp_seconds",
            "When the TLS certificate, or the client authority, expires.",
            value=expires,
        )
        stale = GaugeMetricFamily(
            "conveyor_stale_files", "1 while files are broken and what they held before is in use.", labels=["files"]
        )
        stale.add_metric(["certificate"], float(self._certificates is not None and self._certificates.files.stale))
        stale.add_metric(["tokens"], float(self._access is not None and self._access.files.stale))
        yield stale
        denied = CounterMetricFamily(
            "conveyor_denied_calls", "Calls that were turned away for their token.", labels=["code"]
        )
        for error in (Unauthenticated, NotPermitted):
            denied.add_metric([STATUS_OF[error].name], self._access.denied[error] if self._access else 0)
        yield denied
