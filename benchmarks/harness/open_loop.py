"""A load generator for gRPC that keeps its rate whatever the server does, at tens of thousands of requests a second.

It sends one prepared request over plain HTTP/2 connections and reads no more of the answers than their status, which
is what makes it cheap: a grpcio client spends more on a request than the server under test. Latency counts from the
moment at which a request was due, so a client that falls behind cannot hide it.
"""

import select
import socket
import struct
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from harness.asking import MODEL_INFER

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ANSWER, NOT_SENT = -1, -2
"""Statuses of a request that had no answer when its deadline passed: the client cancels it then, or never sent it,
because the server's flow control or its limit on streams held it back.
"""
_STATUS_OF_RESET = {0: 13, 2: 13, 7: 14, 8: 1, 11: 8}
"""gRPC's code for a stream that the server resets with a code of HTTP/2."""
_LARGEST_WINDOW = 2**31 - 1
_FRAME = struct.Struct(">HBBBI")
"""The length of a frame in two parts, its kind, its flags, its stream."""
_ARRIVALS_AT_ONCE = 4096
# "grpc-status" and the digits in HPACK's Huffman code, for servers that compress strings.
_STATUS_NAMES = (b"grpc-status", bytes.fromhex("9acac8b21234da8f"))
_DIGITS = {"00000": "0", "00001": "1", "00010": "2"} | {f"{25 + n - 3:06b}": str(n) for n in range(3, 10)}


@dataclass
class Outcomes:
    """How requests ended."""

    status: array = field(default_factory=lambda: array("b"))
    """gRPC's code, or NO_ANSWER, or NOT_SENT."""
    latency: array = field(default_factory=lambda: array("d"))
    """Seconds from when the request was due to its end."""
    lag: array = field(default_factory=lambda: array("f"))
    """Seconds by which the client itself looked too late at each request of a rate; not what HTTP/2's limits, which
    are the server's, then held it back."""
    seconds: float = 0.0
    """How long requests were offered."""
    cpu: float = 0.0
    """CPU seconds of the client a second: at 1 it was the client that set the rate."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(name: str, value: str) -> bytes:
    """A header field that enters no table."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


class Connection:
    """One HTTP/2 connection with prepared requests."""

    def __init__(self, host: str, port: int, method: str, message: bytes, timeout: float) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, _LARGEST_WINDOW)  # no header table, no push, wide windows
        grown = (_LARGEST_WINDOW - 65535).to_bytes(4, "big")
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, grown))
        self.socket.setblocking(False)
        fields = [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", f"{host}:{port}")]
        fields += [("te", "trailers"), ("content-type", "application/grpc")]
        fields += [("grpc-timeout", f"{int(timeout * 1e6)}u")]
        block = b"".join(literal(name, value) for name, value in fields)
        body = b"\0" + len(message).to_bytes(4, "big") + message
        assert len(body) <= 16384, "one DATA frame must hold the request"
        self._request = bytearray(frame(HEADERS, END_HEADERS, 0, block) + frame(DATA, END_STREAM, 0, body))
        self._second_stream = 9 + len(block) + 5  # where the number of the stream stands in the second frame
        self._size = len(body)
        self.window = 65535
        self.streams = 2**31
        self.stream = -1
        self.open: dict[int, float] = {}
        """When each request was due, by stream, in order."""
        self.out = bytearray()
        self.data = b""
        self.closed = False

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def ready(self) -> bool:
        """Whether HTTP/2 lets another request be sent."""
        return self.window >= self._size and len(self.open) < self.streams and not self.closed

    def send(self, due: float) -> None:
        self.stream += 2
        request, place = self._request, self._second_stream
        request[5:9] = request[place : place + 4] = self.stream.to_bytes(4, "big")
        self.out += request
        self.window -= self._size
        self.open[self.stream] = due

    def flush(self) -> None:
        if self.out:
            try:
                del self.out[: self.socket.send(self.out)]
            except BlockingIOError:
                pass
            except OSError:
                self.closed = True

    def cancel_before(self, due: float) -> list[float]:
        """Gives up the requests that were due before; returns when each was."""
        gone = []
        while self.open and (first := next(iter(self.open.items())))[1] < due:
            del self.open[first[0]]
            self.out += frame(RST_STREAM, 0, first[0], (8).to_bytes(4, "big"))
            gone.append(first[1])
        return gone

    def receive(self) -> list[tuple[float, int]]:
        """When they were due and the status of the requests that have ended."""
        try:
            chunk = self.socket.recv(1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            chunk = b""
        if not chunk:
            self.closed = True
            return [(due, 14) for due in self._drop()]
        data = self.data + chunk if self.data else chunk
        ended, position, last, waiting = [], 0, len(data) - 9, self.open
        while position <= last:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, position)
            stop = position + 9 + (high << 8) + low
            if stop > len(data):
                break
            if kind == HEADERS:
                if flags & END_STREAM and (due := waiting.pop(stream, None)) is not None:
                    ended.append((due, status_of(data[position + 9 : stop], flags)))
            elif kind != DATA:
                ended += self._control(kind, flags, stream, data[position + 9 : stop])
            position = stop
        self.data = data[position:]
        return ended

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> list[tuple[float, int]]:
        if kind == WINDOW_UPDATE and stream == 0:
            self.window += int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            for identifier, value in struct.iter_unpack(">HI", payload):
                if identifier == 3:
                    self.streams = value
            self.out += frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self.out += frame(PING, ACK, 0, payload)
        elif kind == RST_STREAM and (due := self.open.pop(stream, None)) is not None:
            return [(due, _STATUS_OF_RESET.get(int.from_bytes(payload, "big"), 2))]
        elif kind == GOAWAY:
            self.closed = True
            return [(due, 14) for due in self._drop()]
        return []

    def _drop(self) -> list[float]:
        lost = list(self.open.values())
        self.open.clear()
        return lost


@lru_cache(maxsize=1024)
def status_of(block: bytes, flags: int) -> int:
    """The gRPC status in a block of trailers; HPACK without its dynamic table, which was switched off.

    So equal blocks mean the same, and most blocks of a server are equal.
    """
    position = (1 if flags & PADDED else 0) + (5 if flags & PRIORITY else 0)
    while position < len(block):
        first = block[position]
        if first & 0x80:  # a whole field of the static table
            _, position = number(block, position, 7)
            continue
        if first & 0xE0 == 0x20:  # a new size of the dynamic table
            _, position = number(block, position, 5)
            continue
        index, position = number(block, position, 6 if first & 0x40 else 4)
        name = b""
        if index == 0:
            length, start = number(block, position, 7)
            position = start + length
            name = block[start:position]
        compressed = block[position] & 0x80
        length, start = number(block, position, 7)
        position = start + length
        if name in _STATUS_NAMES:
            value = block[start:position]
            return int(unpack_digits(value) if compressed else value)
    return 2


def number(block: bytes, position: int, bits: int) -> tuple[int, int]:
    """An integer of HPACK (RFC 7541, 5.1), and where it ends."""
    limit = (1 << bits) - 1
    value = block[position] & limit
    position += 1
    if value == limit:
        shift = 0
        while True:
            byte = block[position]
            position += 1
            value += (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
    return value, position


def unpack_digits(value: bytes) -> str:
    bits, text = "".join(f"{byte:08b}" for byte in value), ""
    while digit := _DIGITS.get(bits[:5]) or _DIGITS.get(bits[:6]):
        bits = bits[5 if digit in "012" else 6 :]
        text += digit
    return text


@dataclass
class Target:
    """What is asked, and where."""

    host: str
    port: int
    message: bytes
    """A serialized ModelInferRequest."""
    timeout: float
    """Deadline of each request, in seconds."""
    connections: int = 8
    method: str = MODEL_INFER

    def connect(self) -> list[Connection]:
        return [
            Connection(self.host, self.port, self.method, self.message, self.timeout) for _ in range(self.connections)
        ]


def open_loop(target: Target, rate: float, seconds: float, seed: int = 0) -> Outcomes:
    """Offers `rate` requests a second with Poisson arrivals."""
    return _Load(target, seconds, arrivals=_poisson(rate, seed)).run()


def closed_loop(target: Target, in_flight: int, seconds: float) -> Outcomes:
    """Keeps so many requests in flight."""
    return _Load(target, seconds, in_flight=in_flight).run()


def _poisson(rate: float, seed: int) -> Iterator[float]:
    """Seconds from the beginning at which requests are due, without end."""
    random, begin = np.random.default_rng(seed), 0.0
    while True:
        times = begin + np.cumsum(random.exponential(1 / rate, _ARRIVALS_AT_ONCE))
        begin = float(times[-1])
        yield from times.tolist()


class _Load:
    """One load, from its first request to its last answer."""

    def __init__(
        self, target: Target, seconds: float, *, arrivals: Iterator[float] | None = None, in_flight: int = 0
    ) -> None:
        self._target, self._seconds = target, seconds
        self._arrivals, self._in_flight = arrivals, in_flight
        self._connections = target.connect()
        self._outcomes = Outcomes(seconds=seconds)
        self._waiting: deque[float] = deque()
        """When the requests were due that are not sent yet."""
        self._turn = 0
        self._busy = 0

    def run(self) -> Outcomes:
        connections, timeout = self._connections, self._target.timeout
        cpu, begin = time.process_time(), time.perf_counter()
        due = begin + next(self._arrivals) if self._arrivals else float("inf")
        end = begin + self._seconds
        while (now := time.perf_counter()) < end or (self._busy and now < end + timeout + 1.0):
            if now < end:
                while due <= now:
                    self._outcomes.lag.append(now - due)
                    self._waiting.append(due)
                    due = begin + next(self._arrivals)
                self._waiting.extend([now] * (self._in_flight - self._busy - len(self._waiting)))
            else:
                due = float("inf")
            self._send(now)
            self._give_up(now - timeout, now)
            pause = max(0.0, min(0.001, due - time.perf_counter()))
            for connection in select.select(connections, (), (), pause)[0]:  # epoll waits whole milliseconds
                self._receive(connection)
            if all(connection.closed for connection in connections):
                break
        self._outcomes.cpu = (time.process_time() - cpu) / (time.perf_counter() - begin)
        for connection in connections:
            connection.socket.close()
        return self._outcomes

    def _send(self, now: float) -> None:
        waiting, connections = self._waiting, self._connections
        while waiting:
            if waiting[0] < now - self._target.timeout:
                self._note(NOT_SENT, now - waiting.popleft())
                continue
            for _ in connections:
                self._turn = (self._turn + 1) % len(connections)
                if connections[self._turn].ready:
                    break
            else:
                return
            self._busy += 1
            connections[self._turn].send(waiting.popleft())

    def _give_up(self, due: float, now: float) -> None:
        for connection in self._connections:
            for gone in connection.cancel_before(due):
                self._busy -= 1
                self._note(NO_ANSWER, now - gone)
            connection.flush()

    def _receive(self, connection: Connection) -> None:
        ended = connection.receive()
        self._busy -= len(ended)
        arrived = time.perf_counter()
        self._outcomes.status.extend([status for _, status in ended])
        self._outcomes.latency.extend([arrived - due for due, _ in ended])

    def _note(self, status: int, latency: float) -> None:
        self._outcomes.status.append(status)
        self._outcomes.latency.append(latency)
