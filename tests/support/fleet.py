"""Three real servers with addresses that stay the same when they are restarted, and clients that never pause."""

import asyncio
import re
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
import numpy as np

from conveyor_server.generated import inference_pb2 as pb
from support.balancers import Address, free_ports
from support.onnx_models import predict_classifier
from support.processes import ServerProcess

IMAGES = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
RETRY_POLICY = {
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
"""As docs/round_robin.py has it. When a connection ends by its age, grpcio loses a request now and then."""
LARGE = np.random.default_rng(1).random((128, 64, 64, 1), np.float32)
"""2 MiB: more than any buffer that a balancer has by default."""


class Fleet:
    """Servers over one repository, or one each. All run when the `with` block begins.

    Args:
        repositories: one folder for each server.
        flags: command-line flags of all.
    """

    def __init__(self, repositories: Sequence[Path], *flags: str) -> None:
        ports = free_ports(2 * len(repositories))
        self.addresses: list[Address] = list(zip(ports[::2], ports[1::2], strict=True))
        self.repositories = repositories
        self._flags = flags
        self.servers = [self._new(number) for number in range(len(repositories))]

    def wait_until_started(self, number: int) -> None:
        self.servers[number].__enter__()

    def restart(self, number: int) -> None:
        """Starts a server anew on its old address, and returns when it is ready."""
        self.servers[number].__exit__(None, None, None)
        self.servers[number] = self._new(number)
        self.wait_until_started(number)

    def received(self) -> list[int]:
        """How many predictions each server was asked for since its start, whatever became of them."""
        pages = [self.metrics(number) for number in range(len(self.servers))]
        pattern = re.compile(r"^conveyor_requests_total{.*} (\S+)", re.MULTILINE)
        return [sum(int(float(count)) for count in pattern.findall(page)) for page in pages]

    def metrics(self, number: int) -> str:
        """A server's page for Prometheus."""
        with urllib.request.urlopen(f"{self.servers[number].http_url}/metrics", timeout=10) as response:
            page: str = response.read().decode()
        return page

    def __enter__(self) -> Self:
        for number in range(len(self.servers)):
            self.wait_until_started(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.servers:
            if server.process.poll() is None:
                server.signal(signal.SIGCONT)
            server.__exit__(None, None, None)

    def _new(self, number: int) -> ServerProcess:
        return ServerProcess(self.repositories[number], *self._flags, ports=self.addresses[number])


@dataclass
class Question:
    """A prepared request, and what may be answered to it."""

    message: bytes
    answers: dict[str, np.ndarray]
    """By the version that answered."""


def question(model: str, images: np.ndarray, versions: Sequence[int] = (1,)) -> Question:
    """A request for a `classifier` whose seed is its version."""
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="image", datatype="FP32", shape=images.shape)
    request.raw_input_contents.append(images.tobytes())
    answers = {str(version): predict_classifier(images, seed=version) for version in versions}
    return Question(request.SerializeToString(), answers)


@dataclass
class Failure:
    """A request without an answer."""

    code: str
    details: str
    sent: float
    ended: float


@dataclass
class Load:
    """Clients on one channel, each of which sends the next request when the last one ended.

    Args:
        name: what the channel leads through, for the report.
        questions: asked in turn.
        deadline: seconds that a request may take.
        clients: how many ask at the same time.
        persistent: whether a client goes on after a failure.
    """

    name: str
    channel: grpc.aio.Channel
    questions: Sequence[Question]
    deadline: float = 30.0
    clients: int = 8
    pause: float = 0.01
    persistent: bool = True
    sent: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    slowest: float = 0.0
    _stopping: bool = False

    @property
    def answered(self) -> int:
        return sum(self.versions.values())

    async def __aenter__(self) -> Self:
        self._ask = self.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self.clients)]
        await self.progress(self.clients)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 60)
        await self.channel.close()

    async def progress(self, requests: int) -> None:
        """Returns when so many more requests have ended."""
        aim = self.answered + len(self.failures) + requests
        async with asyncio.timeout(60):
            while self.answered + len(self.failures) < aim:
                for task in self._tasks:
                    if task.done():
                        task.result()  # a wrong answer
                await asyncio.sleep(0.005)

    def report(self, case: str, note: str = "") -> str:
        """The line that the test prints."""
        codes = ", ".join(f"{number} {code}" for code, number in Counter(one.code for one in self.failures).items())
        line = f"{case}, {self.name}: {self.sent} sent, {self.answered} answered, {len(self.failures)} failed"
        return line + (f" ({codes})" if codes else "") + f", slowest {self.slowest:.2f} s" + note

    async def _client(self, number: int) -> None:
        while not self._stopping:
            asked = self.questions[(self.sent + number) % len(self.questions)]
            self.sent += 1
            start = time.monotonic()
            try:
                answer = await self._ask(asked.message, timeout=self.deadline)
            except grpc.aio.AioRpcError as error:
                failure = Failure(error.code().name, error.details() or "", start, time.monotonic())
                self.failures.append(failure)
                if not self.persistent:
                    return
            else:
                self.slowest = max(self.slowest, time.monotonic() - start)
                self._check(asked, pb.ModelInferResponse.FromString(answer))
            await asyncio.sleep(self.pause)

    def _check(self, asked: Question, response: pb.ModelInferResponse) -> None:
        expected = asked.answers[response.model_version]
        rows = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(expected.shape)
        np.testing.assert_allclose(rows, expected, atol=1e-5)
        self.versions[response.model_version] += 1
