"""One inference request on its way: what it asks for, and the reply slot that answers it. Knows no transport."""

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from conveyor_server.core.batch import Entry
from conveyor_server.core.errors import Cancelled, DeadlineExceeded, RequestError, ServerFailed
from conveyor_server.core.model import Array, ModelSpec
from conveyor_server.core.tensors import decode_outputs
from conveyor_server.engine.served_model import ServedModel
from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.wire.call import Call
from conveyor_server.wire.parameters import read_classification, read_scheduling, with_classes
from conveyor_server.wire.status import STATUS_OF, Status

log = logging.getLogger(__name__)

_NO_CLASSES: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for, apart from its id and the contents of its tensors."""

    model: str = ""
    """The model that the client named, there or not."""
    version: str = ""
    """The same of the version; empty for the latest."""
    served: ServedModel | None = None
    """Who answered to that name when the wish was read."""
    outputs: Sequence[int] = ()
    """Positions of the outputs to send."""
    classes: Mapping[int, int] = field(default_factory=lambda: _NO_CLASSES)
    """Of which of them only so many classes are wanted."""
    priority: int = 0
    timeout: float | None = None
    """Both as in `Batcher.submit`."""


def read_wish(request: pb.ModelInferRequest, served: ServedModel) -> Wish:
    """What the request asks of this model.

    Raises:
        InvalidRequest: its parameters or outputs are not what the protocol or the model has.
    """
    priority, timeout = read_scheduling(request) if request.parameters else (0, None)
    outputs = decode_outputs(request, served.spec)
    classes = read_classification(request, served.spec) if request.outputs else _NO_CLASSES
    return Wish(request.model_name, request.model_version, served, outputs, classes, priority, timeout)


class RequestObserver(Protocol):
    """Who wants to know how requests end."""

    def finished(self, request: "Inference", status: Status, seconds: float) -> None:
        """An inference request ended."""


_NOTHING = Wish()


class Inference:
    """The reply slot of one inference, and what observers may know of it.

    Attributes:
        call: who is to be answered.
        wish: what the request asks for.
        served: who answers; None before it is found.
        rows: how many the request has.
        error: why there is no answer.
        entry: its place in the queue; None before it has one.
        trace: what a tracer keeps with the request.
    """

    __slots__ = ("_observer", "_started", "call", "entry", "error", "rows", "served", "trace", "wish")

    def __init__(self, call: Call, observer: RequestObserver) -> None:
        self.call = call
        self.wish = _NOTHING
        self.served: ServedModel | None = None
        self.rows = 0
        self.error: RequestError | None = None
        self.entry: Entry | None = None
        self.trace: object = None
        self._observer = observer
        self._started = time.perf_counter()

    @property
    def spec(self) -> ModelSpec | None:
        """The signature of the model that answers; None before it is found."""
        return self.served.spec if self.served else None

    def answer(self, outputs: Sequence[Array]) -> None:
        """Sends the outputs that the client wants."""
        served, wish = self.served, self.wish
        assert served is not None, "An answer came before the question. This is a bug."
        if wish.classes:
            try:
                outputs = with_classes(outputs, wish.classes, served.spec, served.labels)
            except RequestError as error:
                self.fail(error)
                return
        self.call.answer(served.encoder.encode(outputs, wish.outputs, self.call.request_id))
        self._finished(Status.OK)

    def fail(self, error: RequestError) -> None:
        """Sends the error; one of ours goes to the log, with the request's id."""
        if isinstance(error, ServerFailed):
            # Failures of ours are found in the log by this id; clients may not have sent one.
            reference = self.call.request_id or uuid.uuid4().hex
            log.error("Request %s failed: %s", reference, error, extra={"request_id": reference})
            error = ServerFailed(f"[request id: {reference}] {error}")
        # Its frames know this reply and all bytes of the request: the knot would keep them until the collector comes.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        self.error = error
        self.call.fail(error)
        self._finished(STATUS_OF[type(error)])

    def give_up(self) -> None:
        """The client has gone, by a cancel or because its deadline passed: the request leaves the queue."""
        assert self.served is not None, "What is given up was never queued. This is a bug."
        assert self.entry is not None, "What is given up has ended. This is a bug."
        self.served.batcher.discard(self.entry)
        expired = asyncio.get_running_loop().time() >= self.call.deadline
        self._finished(STATUS_OF[DeadlineExceeded if expired else Cancelled])

    def _finished(self, status: Status) -> None:
        self.entry = None  # it knows this reply: without the knot, both are gone with the call
        seconds = time.perf_counter() - self._started
        if self.served is not None:
            statistics = self.served.statistics
            count = statistics.success if status is Status.OK else statistics.fail
            count.add(seconds)
        self._observer.finished(self, status, seconds)
