"""One question to the server, asked again where that helps, as steps without I/O.

A procedure is a generator: it yields a `Step`, is sent what came of it, and returns its result. Who drives it (threads,
asyncio, a test) does the sending and the waiting, so that what is decided in between stands here once.
"""

import time
from collections.abc import Callable, Generator
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from conveyor_server.client.errors import CallError, DeadlineExceeded, Unavailable
from conveyor_server.client.retries import Retries
from conveyor_server.generated import inference_pb2 as pb

_MAX_TIMEOUT = 31_536_000
"""A year."""

_A = TypeVar("_A", bound=Message)
_R = TypeVar("_R")


class Method(NamedTuple, Generic[_A]):
    """An RPC of the inference service."""

    name: str
    answer: type[_A]
    repeatable: bool = False
    """Whether UNAVAILABLE is asked again. Questions for a state are not: "unavailable" is an answer to those."""


SERVER_LIVE = Method("ServerLive", pb.ServerLiveResponse)
SERVER_READY = Method("ServerReady", pb.ServerReadyResponse)
MODEL_READY = Method("ModelReady", pb.ModelReadyResponse)
SERVER_METADATA = Method("ServerMetadata", pb.ServerMetadataResponse)
REPOSITORY_INDEX = Method("RepositoryIndex", pb.RepositoryIndexResponse)
MODEL_STATISTICS = Method("ModelStatistics", pb.ModelStatisticsResponse)
MODEL_METADATA = Method("ModelMetadata", pb.ModelMetadataResponse, repeatable=True)
MODEL_CONFIG = Method("ModelConfig", pb.ModelConfigResponse, repeatable=True)
MODEL_INFER = Method("ModelInfer", pb.ModelInferResponse, repeatable=True)
# These change a server, and a second one might be another.
MODEL_LOAD = Method("RepositoryModelLoad", pb.RepositoryModelLoadResponse)
MODEL_UNLOAD = Method("RepositoryModelUnload", pb.RepositoryModelUnloadResponse)


class Send(NamedTuple):
    """Step: send a request, and come back with the answer's message or a `CallError`."""

    method: Method[Any]
    request: bytes
    """A serialised message."""
    timeout: float
    """Seconds."""
    connection: int | None = None
    """The number of the connection to use; the least busy one if None."""


class Pause(NamedTuple):
    """Step: come back after so many seconds."""

    seconds: float


Steps = Generator[Any, Any, _R]
"""A procedure: yields steps, returns its result."""


class Asking:
    """The questions of one client.

    Args:
        server: its address, for the texts of errors.
        timeout: seconds for a call that does not say.
        retries: the client's budget for asking again.
        clock: seconds on a monotonic clock.
    """

    def __init__(
        self, server: str, timeout: float, retries: Retries, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.server = server
        self.clock = clock
        self._timeout = timeout
        self._retries = retries

    def deadline(self, timeout: float | None) -> float:
        """When a call that begins now must have ended.

        Raises:
            ValueError: the timeout is not above 0, or longer than any that gRPC can say.
        """
        seconds = self._timeout if timeout is None else timeout
        if not 0 < seconds <= _MAX_TIMEOUT:
            raise ValueError(f"timeout must be above 0 and at most {_MAX_TIMEOUT} seconds, got {seconds}.")
        return self.clock() + seconds

    def ask(self, method: Method[_A], request: bytes, deadline: float, connection: int | None = None) -> Steps[_A]:
        """The server's answer.

        Raises:
            CallError: there is none, after as many attempts as the policy and the deadline allow.
        """
        attempts = backoffs = 0
        refusal = ""
        while True:
            attempts += 1
            try:
                answer: _A = yield Send(method, request, deadline - self.clock(), connection)
            except Unavailable as error:
                error.attempts = attempts
                refusal = f"; it was refused before: {error.details}"
                backoffs = 0 if error.pushback is not None else backoffs + 1  # a push-back begins them anew
                pause = self._retries.refused(attempts, backoffs, error.pushback) if method.repeatable else None
                # What could not be answered in time is given up at once, with the server's reason.
                if pause is None or self.clock() + pause >= deadline:
                    raise
            except CallError as error:
                error.attempts = attempts
                error.details += refusal
                raise
            else:
                self._retries.answered()
                return answer
            yield Pause(pause)

    def expired(self) -> DeadlineExceeded:
        """The error of a caller whose time is up before there is an answer."""
        return DeadlineExceeded("DEADLINE_EXCEEDED", "there was no answer in time", self.server)
