"""Several observers in the place of one, for what operators switch on. Without that, nothing here is on the way."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conveyor_server.core.errors import StartError
from conveyor_server.engine.batcher import Observer, RunReport
from conveyor_server.wire.inference import Inference, RequestObserver
from conveyor_server.wire.status import Status

if TYPE_CHECKING:
    from conveyor_server.tracing import Tracer


class RequestObservers:
    """Tells several observers of each request.

    Args:
        observers: who is told, in this order.
    """

    def __init__(self, observers: Sequence[RequestObserver]) -> None:
        self._observers = observers

    def finished(self, request: Inference, status: Status, seconds: float) -> None:
        """An inference request ended."""
        for observer in self._observers:
            observer.finished(request, status, seconds)


class RunObservers:
    """Tells several observers of each run.

    Args:
        observers: who is told, in this order.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def ran(self, report: RunReport) -> None:
        """A run has ended."""
        for observer in self._observers:
            observer.ran(report)


def open_tracer(endpoint: str, worker: int | None = None) -> "Tracer":
    """A tracer that sends to a collector. Imported only here, because it brings OpenTelemetry.

    Args:
        endpoint: the collector.
        worker: this process' number among those that serve the same port; None when it is the only one.

    Raises:
        StartError: OpenTelemetry is not installed.
    """
    try:
        from conveyor_server.tracing import Tracer, exporting_to
    except ModuleNotFoundError as error:
        raise StartError("--trace-endpoint needs OpenTelemetry. Install 'conveyor-server[otel]'.") from error
    return Tracer(exporting_to(endpoint), worker)
