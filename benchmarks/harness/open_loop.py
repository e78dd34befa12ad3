"""A load generator for gRPC that keeps its rate whatever the server does, at tens of thousands of requests a second.

It sends one prepared request over plain HTTP/2 connections and reads no more of the answers than their status, which
is what makes it cheap: a grpcio client spends more on a request than the server under test. Latency counts from the
moment at which a request was due, so a client that falls behind cannot hide it.
"""

import heapq
import random
import select
import socket
import struct
import time
from array import array
from collections import deque
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, PADDED, PRIORITY = 0x1, 0x1, 0x8, 0x20
NO_ANSWER = -1
"""Status of a request that had no answer when its deadline passed; the client cancels it then."""
_STATUS_OF_RESET = {0: 13, 2: 13, 7: 14, 8: 1, 11: 8}
"""gRPC's code for a stream that the server resets with a code of HTTP/2."""
_LARGEST_WINDOW = 2**31 - 1
# "grpc-status" and the digits in HPACK's Huffman code, for servers that compress strings.
_STATUS_NAMES = (b"grpc-status", bytes.fromhex("9acac8b21234da8f"))
_DIGITS = {"00000": "0", "00001": "1", "00010": "2"} | {f"{25 + n - 3:06b}": str(n) for n in range(3, 10)}


@dataclass
class Outcomes:
    """How requests ended."""

    status: array = field(default_factory=lambda: array("b"))
    """gRPC's code, or NO_ANSWER."""
    latency: array = field(default_factory=lambda: array("d"))
    """Seconds from when the request was due to its end."""
    late: float = 0.0
    """The longest time by which the client itself sent a request too late, in seconds."""
    seconds: float = 0.0


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
        self.head = len(block).to_bytes(3, "big") + bytes((HEADERS, 0x4))
        self.block = block
        body = b"\0" + len(message).to_bytes(4, "big") + message
        assert len(body) <= 16384, "one DATA frame must hold the request"
        self.body = len(body).to_bytes(3, "big") + bytes((DATA, END_STREAM))
        self.message = body
        self.window = 65535
        self.streams = 2**31
        self.stream = -1
        self.open: dict[int, float] = {}
        """When each request was due, by stream, in order."""
        self.out = bytearray()
        self.data = bytearray()
        self.closed = False

    @property
    def ready(self) -> bool:
        """Whether HTTP/2 lets another request be sent."""
        return not self.closed and self.window >= len(self.message) and len(self.open) < self.streams

    def send(self, due: float) -> None:
        self.stream += 2
        stream = self.stream.to_bytes(4, "big")
        self.out += self.head + stream + self.block + self.body + stream + self.message
        self.window -= len(self.message)
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
        data = self.data
        data += chunk
        ended, position, size = [], 0, len(data)
        while size - position >= 9:
            length = int.from_bytes(data[position : position + 3], "big")
            stop = position + 9 + length
            if stop > size:
                break
            kind, flags = data[position + 3], data[position + 4]
            stream = int.from_bytes(data[position + 5 : position + 9], "big") & 0x7FFFFFFF
            if kind == HEADERS and flags & END_STREAM:
                if (due := self.open.pop(stream, None)) is not None:
                    ended.append((due, status_of(bytes(data[position + 9 : stop]), flags)))
            elif kind not in (DATA, HEADERS):
                ended += self._control(kind, flags, stream, bytes(data[position + 9 : stop]))
            position = stop
        del data[:position]
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


def status_of(block: bytes, flags: int) -> int:
    """The gRPC status in a block of trailers; HPACK without its dynamic table, which was switched off."""
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
    method: str = "/inference.GRPCInferenceService/ModelInfer"

    def connect(self) -> list[Connection]:
        return [
            Connection(self.host, self.port, self.method, self.message, self.timeout) for _ in range(self.connections)
        ]


def open_loop(target: Target, rate: float, seconds: float, seed: int = 0) -> Outcomes:
    """Offers `rate` requests a second with Poisson arrivals."""
    return _run(target, seconds, rate=rate, seed=seed)


def closed_loop(target: Target, in_flight: int, seconds: float) -> Outcomes:
    """Keeps so many requests in flight."""
    return _run(target, seconds, in_flight=in_flight)


def _run(target: Target, seconds: float, *, rate: float = 0.0, seed: int = 0, in_flight: int = 0) -> Outcomes:
    connections = target.connect()
    poll = select.epoll()
    by_number = {}
    for connection in connections:
        by_number[connection.socket.fileno()] = connection
        poll.register(connection.socket.fileno(), select.EPOLLIN)
    outcomes, waiting, arrivals = Outcomes(), deque[float](), random.Random(seed)
    begin = time.perf_counter()
    due, turn, end = begin, 0, begin + seconds
    patience = end + target.timeout + 1.0
    busy = 0
    while (now := time.perf_counter()) < end or (busy and now < patience):
        if now < end:
            if in_flight:
                waiting.extend([now] * max(0, in_flight - busy - len(waiting)))
            while rate and due <= now:
                waiting.append(due)
                due += arrivals.expovariate(rate)
        while waiting:
            if waiting[0] < now - target.timeout:  # HTTP/2's own limits held it back until its deadline passed
                _note(outcomes, NO_ANSWER, now - waiting.popleft())
                continue
            for _ in connections:
                turn = (turn + 1) % len(connections)
                if connections[turn].ready:
                    break
            else:
                break
            sent = waiting.popleft()
            outcomes.late = max(outcomes.late, now - sent)
            connections[turn].send(sent)
        busy = 0
        for connection in connections:
            for gone in connection.cancel_before(now - target.timeout):
                _note(outcomes, NO_ANSWER, now - gone)
            connection.flush()
            busy += len(connection.open)
        pause = min(0.001, max(0.0, due - time.perf_counter())) if rate else 0.001
        for number_, _ in poll.poll(pause):
            ended = by_number[number_].receive()
            busy -= len(ended)
            arrived = time.perf_counter()
            for asked, status in ended:
                _note(outcomes, status, arrived - asked)
        if all(connection.closed for connection in connections):
            break
    outcomes.seconds = seconds
    for connection in connections:
        connection.socket.close()
    return outcomes


def _note(outcomes: Outcomes, status: int, latency: float) -> None:
    outcomes.status.append(status)
    outcomes.latency.append(latency)


def quantile(values: list[float], q: float) -> float:
    """The nearest rank; nan of nothing."""
    if not values:
        return float("nan")
    count = max(1, round(len(values) * (1 - q)))
    return heapq.nlargest(count, values)[-1] if q > 0.9 else sorted(values)[min(len(values) - 1, int(q * len(values)))]
