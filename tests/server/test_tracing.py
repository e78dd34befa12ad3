import asyncio
import math
import subprocess
import sys

import numpy as np
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from conveyor_server.core.batch_queue import QueuePolicy
from conveyor_server.core.errors import ModelNotFound, StartError
from conveyor_server.engine.batcher import Batcher
from conveyor_server.observers import RunObservers, open_tracer
from conveyor_server.tracing import Tracer
from conveyor_server.wire.inference import Inference, Wish
from conveyor_server.wire.status import Status
from support.puppets import FakeCall, PuppetModel, Runs

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Traced(Inference):
    """A request whose answer needs no model."""

    def answer(self, outputs):
        self._finished(Status.OK)


class Bench:
    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.tracer = Tracer(SimpleSpanProcessor(self.exporter))
        self.model = PuppetModel(run_size=4)
        self.batcher = Batcher(self.model, QueuePolicy(64, 10**6), RunObservers([Runs(), self.tracer]))

    def submit(self, rows, *, request_id="", **metadata):
        call = FakeCall()
        call.request_id, call.metadata = request_id, metadata
        request = Traced(call, self.tracer)
        request.rows = rows
        self.batcher.submit((np.ones((rows, 1)),), rows, math.inf, request)

    async def spans(self):
        self.model.free()
        await self.batcher.drain()
        await asyncio.sleep(0)
        return self.exporter.get_finished_spans()


@pytest.fixture
async def bench():
    made = Bench()
    yield made
    made.batcher.close()
    made.tracer.close()


def named(spans, name):
    return [span for span in spans if name in span.name]


async def test_a_request_has_a_span_with_its_wait_and_continues_the_clients_trace(bench):
    bench.submit(3, request_id="7", traceparent=f"00-{TRACE}-{PARENT}-01")
    spans = await bench.spans()
    (request,), (queue,), (run,) = (named(spans, name) for name in ("ModelInfer", "queue", "run"))
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    assert request.attributes["conveyor.rows"] == 3
    assert request.attributes["conveyor.request_id"] == "7"
    assert request.attributes["rpc.grpc.status_code"] == 0
    assert queue.parent.span_id == request.context.span_id
    assert [link.context.span_id for link in run.links] == [request.context.span_id]
    assert run.attributes["conveyor.rows"] == 3
    assert queue.start_time <= queue.end_time == run.start_time <= run.end_time


async def test_a_run_is_linked_to_all_its_requests(bench):
    bench.submit(4)  # keeps the runner busy, so that the next two share a run
    await bench.model.began()
    bench.submit(2)
    bench.submit(2)
    spans = await bench.spans()
    first, both = named(spans, "run")
    requests = {span.context.span_id: span for span in named(spans, "ModelInfer")}
    assert len(first.links) == 1
    assert len(both.links) == 2
    assert {link.context.span_id for run in (first, both) for link in run.links} == set(requests)
    assert len({span.context.trace_id for span in requests.values()}) == 3


async def test_a_request_of_several_runs_is_one_span_with_one_wait(bench):
    bench.submit(10)
    spans = await bench.spans()
    assert len(named(spans, "ModelInfer")) == 1
    assert len(named(spans, "queue")) == 1
    assert [span.attributes["conveyor.rows"] for span in named(spans, "run")] == [4, 4, 2]


async def test_a_failed_run_and_its_requests_are_errors(bench):
    bench.model.failing = True
    bench.submit(1)
    spans = await bench.spans()
    assert {span.status.status_code for span in named(spans, "run") + named(spans, "ModelInfer")} == {StatusCode.ERROR}


async def test_a_trace_that_is_not_sampled_costs_no_spans(bench):
    bench.submit(1, traceparent=f"00-{TRACE}-{PARENT}-00")
    assert await bench.spans() == ()


async def test_a_request_that_never_ran_is_a_span_too(bench):
    request = Inference(FakeCall(), bench.tracer)
    request.wish = Wish("x" * 200)
    request.fail(ModelNotFound("no"))
    (span,) = await bench.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["conveyor.model"] == "x" * 100


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "conveyor_server.tracing", None)
    with pytest.raises(StartError, match=r"Install 'conveyor-server\[otel\]'"):
        open_tracer("http://localhost:4317")


def test_nothing_of_it_is_imported_unasked():
    code = "import sys, conveyor_server.app; print([m for m in sys.modules if m.split('.')[0] in "
    code += "('opentelemetry', 'fsspec', 's3fs') or m == 'conveyor_server.tracing'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
