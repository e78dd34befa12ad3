"""One HTTP/2 connection of a load generator, which sends prepared requests and reads no more than how they ended.

Knows no time, and no rate.
"""

import socket
import struct
from functools import lru_cache

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_STATUS_OF_RESET = {0: 13, 2: 13, 7: 14, 8: 1, 11: 8}
"""gRPC's code for a stream that the server resets with a code of HTTP/2."""
_LARGEST_WINDOW = 2**31 - 1
_FRAME = struct.Struct(">HBBBI")
"""The length of a frame in two parts, its kind, its flags, its stream."""
# "grpc-status" and the digits in HPACK's Huffman code, for servers that compress strings.
_STATUS_NAMES = (b"grpc-status", bytes.fromhex("9acac8b21234da8f"))
_DIGITS = {"00000": "0", "00001": "1", "00010": "2"} | {f"{25 + n - 3:06b}": str(n) for n in range(3, 10)}
_TIMEOUT_BYTES = 9
_MOST_UNSENT = 1 << 16
"""Bytes that may wait for the socket; requests on top of that are not sent, as in any client of gRPC."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(name: str, value: str) -> bytes:
    """A header field that enters no table."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


def _left(seconds: float) -> bytes:
    """A timeout in microseconds, always as long."""
    return b"%08du" % max(0, int(seconds * 1e6))


class Connection:
    """One HTTP/2 connection with prepared requests.

    Like gRPC's own clients, it tells the server how much of a request's time is left when the request leaves, not how
    much it had when it was made.
    """

    def __init__(self, host: str, port: int, method: str, message: bytes, timeout: float) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, _LARGEST_WINDOW)  # no header table, no push, wide windows
        grown = (_LARGEST_WINDOW - 65535).to_bytes(4, "big")
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, grown))
        self.socket.setblocking(False)
        fields = [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", f"{host}:{port}")]
        fields += [("te", "trailers"), ("content-type", "application/grpc")]
        fields += [("grpc-timeout", _left(timeout).decode())]
        block = b"".join(literal(name, value) for name, value in fields)
        body = b"\0" + len(message).to_bytes(4, "big") + message
        assert len(body) <= 16384, "one DATA frame must hold the request"
        self._request = bytearray(frame(HEADERS, END_HEADERS, 0, block) + frame(DATA, END_STREAM, 0, body))
        self._second_stream = 9 + len(block) + 5  # where the number of the stream stands in the second frame
        self._timeout = timeout
        self._timeout_place = slice(9 + len(block) - _TIMEOUT_BYTES, 9 + len(block))
        self._size = len(body)
        self.window = 65535
        self.streams = 2**31
        self.stream = -1
        self.open: dict[int, float] = {}
        """When each request was due, by stream, in order."""
        self.out = bytearray()
        self.data = b""
        self.leaving = False
        """Whether the server wants new requests to take another connection."""
        self.closed = False

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def ready(self) -> bool:
        """Whether HTTP/2 and the socket let another request be sent."""
        return (
            self.window >= self._size
            and len(self.out) < _MOST_UNSENT
            and len(self.open) < self.streams
            and not self.closed
            and not self.leaving
        )

    def send(self, due: float, now: float) -> None:
        self.stream += 2
        request, place = self._request, self._second_stream
        request[self._timeout_place] = _left(due + self._timeout - now)
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
            self.leaving = True
            last = int.from_bytes(payload[:4], "big")
            return [(self.open.pop(stream), 14) for stream in list(self.open) if stream > last]
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
