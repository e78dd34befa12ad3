"""OpenTelemetry traces: a span for each request with its wait in the queue, one for each run, linked to them.

Observes what has happened and builds the spans afterwards, so that nothing waits for it. Only imported when asked for.
"""

import asyncio
import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from conveyor_server import __version__
from conveyor_server.engine.batcher import RunReport
from conveyor_server.wire.inference import Inference
from conveyor_server.wire.status import Status as Code

_LONGEST = 100
"""Characters of a name that a client chose."""
_FLUSH_MILLISECONDS = 5000
_CONTEXT = TraceContextTextMapPropagator()


def exporting_to(endpoint: str) -> SpanProcessor:
    """Sends spans in batches, from a thread of its own, to an OTLP collector over gRPC."""
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://")))


class Tracer:
    """The observer of requests and runs that makes spans of them.

    Args:
        processor: where finished spans go.
        worker: this process' number among those that serve the same port; None when it is the only one.
    """

    def __init__(self, processor: SpanProcessor, worker: int | None = None) -> None:
        attributes: dict[str, str | int] = {"service.name": "conveyor", "service.version": __version__}
        if worker is not None:
            attributes["conveyor.worker"] = worker
        self._provider = TracerProvider(resource=Resource.create(attributes))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("conveyor_server", __version__)

    def close(self) -> None:
        """Sends what is left, for a few seconds at most."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()

    def finished(self, request: Inference, status: Code, seconds: float) -> None:
        """An inference request ended: so does its span."""
        now = time.time_ns()
        span = self._span(request, now - round(seconds * 1e9))
        if span.is_recording():
            spec = request.spec
            span.set_attributes(
                {
                    "conveyor.model": spec.name if spec else request.wish.model[:_LONGEST],
                    "conveyor.version": spec.version if spec else 0,
                    "conveyor.rows": request.rows,
                    "conveyor.request_id": request.call.request_id[:_LONGEST],
                    "rpc.system": "grpc",
                    "rpc.method": request.call.method,
                    "rpc.grpc.status_code": status.value,
                }
            )
            if status is not Code.OK:
                span.set_status(Status(StatusCode.ERROR, status.name))
            span.end(now)

    def ran(self, report: RunReport) -> None:
        """A run ended: its span, and those of its requests' waits."""
        # The queue's times are on the event loop's clock, spans want the wall's.
        offset = time.time() - asyncio.get_running_loop().time()
        links = []
        started = 0
        for (entry, first_row, _), waited in zip(report.batch.slices, report.waited, strict=True):
            arrived = round((entry.arrived + offset) * 1e9)
            started = arrived + round(waited * 1e9)
            if isinstance(entry.reply, Inference):
                span = self._span(entry.reply, arrived)
                links.append(Link(span.get_span_context()))
                if first_row == 0 and span.get_span_context().trace_flags.sampled:
                    self._tracer.start_span(
                        "queue", context=trace.set_span_in_context(span), start_time=arrived
                    ).end(started)  # fmt: skip
        sampled = [link for link in links if link.context.trace_flags.sampled]
        if sampled:
            self._run(report, started, sampled)

    def _run(self, report: RunReport, started: int, links: list[Link]) -> None:
        # A span has one parent: the first request's trace shows it, the others' find it by their links.
        span = self._tracer.start_span(
            "run",
            context=trace.set_span_in_context(trace.NonRecordingSpan(links[0].context)),
            links=links,
            start_time=started,
            attributes={
                "conveyor.rows": report.batch.rows,
                "conveyor.gather_seconds": report.gather_seconds,
                "conveyor.run_seconds": report.run_seconds,
                "conveyor.scatter_seconds": report.scatter_seconds,
            },
        )
        if report.failed:
            span.set_status(Status(StatusCode.ERROR))
        duration = report.gather_seconds + report.run_seconds + report.scatter_seconds
        span.end(started + round(duration * 1e9))

    def _span(self, request: Inference, started: int) -> Span:
        """The span of a request, begun when it is first asked for; a child of the client's, if the headers name one."""
        if not isinstance(request.trace, Span):
            request.trace = self._tracer.start_span(
                "inference.GRPCInferenceService/" + request.call.method,
                context=_CONTEXT.extract(request.call.metadata),
                kind=SpanKind.SERVER,
                start_time=started,
            )
        return request.trace
