"""Clients of every kind, all at once: good ones, hasty ones, wrong ones, and such as break off in the middle.

Each knows what it may be answered; every request that is sent is counted, and so is what became of it.
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from struct import pack
from typing import Any

import grpc
import grpc.aio
import numpy as np

from conveyor_server.client import AsyncClient, RetryPolicy
from conveyor_server.generated import inference_pb2 as pb
from support import http2_frames as h2
from support.fleet import RETRY_POLICY
from support.onnx_models import predict_classifier

MODEL = "digits"
SERVICE = "/inference.GRPCInferenceService/"
IMAGES = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
PATIENCE = 120.0
"""Seconds that a good request may take on any machine."""
STOPPING = "UNAVAILABLE"
"""What a bare client is told while the server is stopped and started."""
STOPPING_TEXTS = ("The server is shutting down", "is not at ready state: it is still loading")
"""The same on a stream, where an answer has no code."""
NOT_SENT_AGAIN = "GOAWAY received"
"""What grpc says of a request that it was about to send on a connection that is leaving, and that is too large for the
copy which it keeps to send others again (256 KiB)."""
CONTRACT = {
    "predict": {"OK"},
    "infer": {"OK", STOPPING},
    "stream": {"OK", STOPPING},
    "broken stream": {"OK", "CANCELLED", STOPPING},
    "deadline": {"OK", "DEADLINE_EXCEEDED", "UNAVAILABLE"},
    "cancel": {"OK", "CANCELLED", STOPPING},
    "unknown model": {"NOT_FOUND", STOPPING},
    "wrong shape": {"INVALID_ARGUMENT", STOPPING},
    "no message": {"INVALID_ARGUMENT", STOPPING},
    "too large": {"RESOURCE_EXHAUSTED", STOPPING},
    "unknown method": {"UNIMPLEMENTED", STOPPING},
    "metadata": {"OK", STOPPING},
    "broken off": {"closed", "not there"},
}
"""By kind of request, how it may end. `STOPPING` only while the server does, but for deadlines: those that cannot be
kept are refused with it at any time."""


@dataclass
class Ended:
    """A request that was not answered well."""

    kind: str
    code: str
    details: str
    sent: float
    ended: float


@dataclass
class Tally:
    """What was sent, and how it ended."""

    sent: Counter[str] = field(default_factory=Counter)
    ended: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    refused: list[Ended] = field(default_factory=list)
    """Requests that ended as `STOPPING`, where that is all right only at times."""
    breaches: list[Ended] = field(default_factory=list)
    """Requests that ended otherwise than they may."""

    def end(self, kind: str, code: str, sent: float, details: str = "", count: int = 1) -> None:
        """So many requests ended."""
        self.ended[kind][code] += count
        one = Ended(kind, code, details, sent, time.monotonic())
        if code not in CONTRACT[kind]:
            self.breaches.append(one)
        elif code == STOPPING and kind != "deadline" and not (kind == "too large" and NOT_SENT_AGAIN in details):
            self.refused.append(one)

    def unaccounted(self) -> dict[str, int]:
        """Requests without an end, by kind."""
        return {
            kind: sent - self.ended[kind].total()
            for kind, sent in self.sent.items()
            if self.ended[kind].total() != sent
        }

    def report(self) -> str:
        """A line for each kind."""
        kinds = (f"  {kind:16}{sent:>9,} sent: {_codes(self.ended[kind])}" for kind, sent in sorted(self.sent.items()))
        return "\n".join(kinds)


def _codes(codes: Counter[str]) -> str:
    return ", ".join(f"{count:,} {code}" for code, count in codes.most_common())


@lru_cache(maxsize=64)
def expected(version: str) -> np.ndarray:
    """The answer of a version, which is its model's seed."""
    return predict_classifier(IMAGES, seed=int(version))


def message(images: np.ndarray = IMAGES, model: str = MODEL, request_id: str = "") -> bytes:
    """A request."""
    request = pb.ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[images.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=images.shape)
    return request.SerializeToString()


TOO_LARGE = message(np.zeros((12_000, 8, 8, 1), np.float32))


def check(answer: pb.ModelInferResponse) -> None:
    """Raises AssertionError unless it is right for the version that it names."""
    probabilities = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(len(IMAGES), -1)
    np.testing.assert_allclose(probabilities, expected(answer.model_version), atol=1e-5)


class Clients:
    """Clients that ask until they are told to stop.

    Args:
        target: where grpc's clients find the server, also when it was started anew.
        address: gives host and port of the server that runs, for sockets.
        tally: takes what becomes of their requests.
    """

    def __init__(self, target: str, address: Callable[[], str], tally: Tally) -> None:
        self._target, self._address, self._tally = target, address, tally
        self._random = random.Random(0)
        self._stopping = False

    def start(self) -> None:
        """All begin."""
        self._stopping = False
        kinds = [self._predict, self._infer, self._stream, self._hasty, self._cancel]
        jobs = [*kinds, *kinds, self._wrong, self._break_stream, self._break_off, self._break_off]
        self._tasks = [asyncio.create_task(self._repeat(job)) for job in jobs]

    async def stop(self) -> None:
        """All have gone when this returns. Raises what a wrong answer raised."""
        self._stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), PATIENCE)

    def check(self) -> None:
        """Raises what a wrong answer raised."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _repeat(self, job: Callable[[grpc.aio.Channel, AsyncClient], Awaitable[None]]) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        options += [("grpc.use_local_subchannel_pool", 1)]
        options += [("grpc.service_config", json.dumps(RETRY_POLICY))]
        retry = RetryPolicy(max_attempts=10**6, max_backoff=0.2, budget=10**6)
        async with (
            grpc.aio.insecure_channel(self._target, options=options) as channel,
            AsyncClient(self._target, retry=retry, timeout=PATIENCE) as client,
        ):
            while not self._stopping:
                await job(channel, client)
                await asyncio.sleep(self._random.uniform(0, 0.01))

    @contextlib.asynccontextmanager
    async def _counted(self, kind: str) -> AsyncIterator[None]:
        self._tally.sent[kind] += 1
        sent = time.monotonic()
        try:
            yield
        except grpc.aio.AioRpcError as error:
            self._tally.end(kind, error.code().name, sent, error.details() or "")
        else:
            self._tally.end(kind, "OK", sent)

    async def _predict(self, channel: grpc.aio.Channel, client: AsyncClient) -> None:
        """Through the client library, which asks again: the restarts are none of its caller's business."""
        async with self._counted("predict"):
            answer = await client.predict(MODEL, IMAGES)
            assert answer.shape == (len(IMAGES), 4)

    async def _ask(
        self, channel: grpc.aio.Channel, kind: str, data: bytes, method: str = "ModelInfer", timeout: float = PATIENCE
    ) -> bytes | None:
        async with self._counted(kind):
            answer: bytes = await channel.unary_unary(SERVICE + method)(data, timeout=timeout)
            return answer
        return None

    async def _infer(self, channel: grpc.aio.Channel, client: AsyncClient) -> None:
        if (answer := await self._ask(channel, "infer", message())) is not None:
            check(pb.ModelInferResponse.FromString(answer))

    async def _hasty(self, channel: grpc.aio.Channel, client: AsyncClient) -> None:
        await self._ask(channel, "deadline", message(), timeout=self._random.uniform(0.0001, 0.005))

    async def _wrong(self, channel: grpc.aio.Channel, client: AsyncClient) -> None:
        await self._ask(channel, "unknown model", message(model="nobody"))
        await self._ask(channel, "wrong shape", message(IMAGES[:, :7]))
        await self._ask(channel, "no message", b"\xff\xff\xff")
        await self._ask(channel, "too large", TOO_LARGE)
        await self._ask(channel, "unknown method", b"", method="Nothing")
        await self._ask(channel, "metadata", b"", method="ServerMetadata")

    async def _cancel(self, channel: grpc.aio.Channel, client: AsyncClient) -> None:
        self._tally.sent["cancel"] += 1
        sent = time.monotonic()
        call = channel.unary_unary(SERVICE + "ModelInfer")(message(), timeout=PATIENCE)
        await asyncio.sleep(self._random.uniform(0, 0.003))
        call.cancel()
        self._tally.end("cancel", (await call.code()).name, sent, await call.details() or "")

    async def _stream(self, channel: grpc.aio.Channel, client: AsyncClient) -> None:
        await self._converse(channel, "stream", self._random.randint(1, 20))

    async def _break_stream(self, channel: grpc.aio.Channel, client: AsyncClient) -> None:
        await self._converse(channel, "broken stream", 20, self._random.randint(0, 19))

    async def _converse(self, channel: grpc.aio.Channel, kind: str, count: int, read: int | None = None) -> None:
        """Requests on a stream, of which each fifth is wrong, until as many answers were read, or all."""
        numbers = [str(number) for number in range(count)]
        texts = [
            message(model="nobody" if number % 5 == 4 else MODEL, request_id=str(number)) for number in range(count)
        ]
        self._tally.sent[kind] += count
        sent, answers = time.monotonic(), {}
        call = channel.stream_stream(SERVICE + "ModelStreamInfer")(iter(texts), timeout=PATIENCE)
        try:
            async for data in _first(call, count if read is None else read):
                answer = pb.ModelStreamInferResponse.FromString(data)
                number = answer.infer_response.id
                assert number not in answers
                answers[number] = _understood(answer)
        except grpc.aio.AioRpcError:
            pass  # the code says so as well
        if read is not None:
            call.cancel()
        code, details = (await call.code()).name, await call.details() or ""
        assert set(answers) <= set(numbers)
        for answered in answers.values():
            self._tally.end(kind, answered, sent)
        if left := count - len(answers):
            self._tally.end(kind, "no answer" if code == "OK" else code, sent, details, left)

    async def _break_off(self, channel: grpc.aio.Channel, client: AsyncClient) -> None:
        """A connection that ends in the middle of something, from either side."""
        self._tally.sent["broken off"] += 1
        sent = time.monotonic()
        host, port = self._address().split(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            self._tally.end("broken off", "not there", sent)
            return
        try:
            writer.write(next(_HALVES))
            if self._random.random() < 0.5:
                writer.write_eof()  # only this half is closed
                async with asyncio.timeout(PATIENCE):
                    while await reader.read(2**16):
                        pass
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        self._tally.end("broken off", "closed", sent)


def _understood(answer: pb.ModelStreamInferResponse) -> str:
    """How a request on a stream ended: OK also for an error that the request deserves."""
    if any(text in answer.error_message for text in STOPPING_TEXTS):
        return STOPPING
    if int(answer.infer_response.id) % 5 == 4:
        assert "nobody" in answer.error_message
    else:
        assert answer.error_message == "", answer.error_message
        check(answer.infer_response)
    return "OK"


async def _first(call: Any, count: int) -> AsyncIterator[bytes]:
    if count:
        left = count
        async for answer in call:
            yield answer
            if (left := left - 1) == 0:
                break


def _halves() -> list[bytes]:
    infer = (SERVICE + "ModelInfer").encode()
    whole = h2.call(1, infer, message())
    headers = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(infer))
    reset = h2.frame(h2.RST_STREAM, 0, 1, pack(">I", 8))
    begun = headers + h2.frame(h2.DATA, 0, 1, pack(">BI", 0, 1000) + b"x" * 10)
    noise = b"GET / HTTP/1.1\r\n\r\n"
    return [h2.greeting() + rest for rest in (b"", whole, whole + reset, begun, headers, whole[:50], b"\0" * 50)] + [
        noise
    ]


_HALVES = itertools.cycle(_halves())
