"""Frames of HTTP/2 and calls of gRPC by hand, also such as no library would write (RFC 9113, RFC 7541)."""

from struct import pack

from harness.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    literal,
)

PRIORITY, GOAWAY, CONTINUATION = 2, 7, 9
INFER = "/inference.GRPCInferenceService/ModelInfer"
INFER_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
METADATA = "/inference.GRPCInferenceService/ServerMetadata"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
WATCH = "/grpc.health.v1.Health/Watch"
LARGEST_WINDOW = 2**31 - 1
CANCEL = (8).to_bytes(4, "big")
PINGED = frame(PING, 0, 0, b"12345678")
ACKNOWLEDGED = frame(SETTINGS, ACK, 0, b"")
DESCRIPTORS = b"\x22\x22grpc.health.v1.HealthCheckResponse"
"""A question to reflection (`file_containing_symbol`) of 36 bytes; the answer has some hundreds."""
LONG_DESCRIPTORS = b"\x22\x1cinference.ModelConfigRequest"
"""Another, of 30 bytes; the answer has 15,000 and more."""


def greeting(window: int = 65535, connection_window: int = 65535) -> bytes:
    """The beginning of a connection, with how much of one answer and of all may come before it is allowed anew."""
    settings = frame(SETTINGS, 0, 0, pack(">HI", 4, window))
    grown = connection_window - 65535
    return PREFACE + settings + (frame(WINDOW_UPDATE, 0, 0, pack(">I", grown)) if grown else b"")


def header_block(path: str, *more: tuple[str, str]) -> bytes:
    """The headers of a call, none of which enters a table."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")]
    return b"".join(literal(name, value) for name, value in [*fields, ("content-type", "application/grpc"), *more])


def message(content: bytes, flag: int = 0) -> bytes:
    """A message as it goes into a stream."""
    return pack(">BI", flag, len(content)) + content


def opened(stream: int, block: bytes) -> bytes:
    """A call whose messages are still to come."""
    return frame(HEADERS, END_HEADERS, stream, block)


def data(stream: int, content: bytes, *, last: bool = False) -> bytes:
    """Some bytes of a call, in one frame."""
    return frame(DATA, END_STREAM if last else 0, stream, content)


def call(stream: int, block: bytes, content: bytes) -> bytes:
    """A whole call with one message, which fits into one frame."""
    return opened(stream, block) + data(stream, message(content), last=True)


def reset(stream: int) -> bytes:
    """The client gives a call up."""
    return frame(RST_STREAM, 0, stream, CANCEL)


def streams(count: int, first: int = 1) -> range:
    """Numbers of so many calls of a client."""
    return range(first, first + 2 * count, 2)
