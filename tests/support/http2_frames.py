"""HTTP/2 frames by hand, also such as no library would write (RFC 9113)."""

from struct import pack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return pack(">I", len(payload))[1:] + bytes([kind, flags]) + pack(">I", stream) + payload


def settings(**values: int) -> bytes:
    names = {"streams": 3, "window": 4, "frame": 5, "headers": 6}
    return frame(SETTINGS, payload=b"".join(pack(">HI", names[name], value) for name, value in values.items()))


def greeting(**values: int) -> bytes:
    return PREFACE + settings(**values)


def _string(value: bytes) -> bytes:
    """A string of HPACK, not compressed (RFC 7541, 5.2); up to 16,510 bytes."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest = len(value) - 127
    return (
        bytes([127, rest & 0x7F | (0x80 if rest > 0x7F else 0)]) + (bytes([rest >> 7]) if rest > 0x7F else b"") + value
    )


def header_block(*headers: tuple[bytes, bytes]) -> bytes:
    """Literal fields that are not indexed (RFC 7541, 6.2.2)."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in headers)


def call_headers(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """The header block of a gRPC call."""
    return header_block(
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"test"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    )


def call(stream: int, path: bytes, message: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A whole unary call in one piece."""
    body = pack(">BI", 0, len(message)) + message
    return frame(HEADERS, END_HEADERS, stream, call_headers(path, *more)) + frame(DATA, END_STREAM, stream, body)


def frames_in(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each whole frame."""
    found, position = [], 0
    while len(data) - position >= 9:
        length = int.from_bytes(data[position : position + 3], "big")
        if len(data) - position - 9 < length:
            break
        kind, flags = data[position + 3], data[position + 4]
        stream = int.from_bytes(data[position + 5 : position + 9], "big")
        found.append((kind, flags, stream, data[position + 9 : position + 9 + length]))
        position += 9 + length
    return found
