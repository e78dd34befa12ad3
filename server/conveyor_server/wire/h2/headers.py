"""gRPC's headers as HTTP/2 carries them: what a call asks for, and how it ends. No I/O; knows no service.

The rules are those of gRPC's PROTOCOL-HTTP2.md.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conveyor_server.core.errors import InvalidRequest, MessageTooLarge, UnknownMethod
from conveyor_server.wire.call import Metadata
from conveyor_server.wire.status import Status

Header = tuple[bytes, bytes]
Headers = Sequence[Header]

ENCODINGS = (b"identity", b"gzip", b"deflate")
_ACCEPT_ENCODING: Header = (b"grpc-accept-encoding", b",".join(ENCODINGS))
_BEGIN: tuple[Header, ...] = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_CONTENT_TYPES = (b"application/grpc", b"application/grpc+proto")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MOST_DIGITS = 8
_TIMEOUT = b"grpc-timeout"

RESPONSE: Mapping[bytes, Headers] = {
    b"identity": _BEGIN,
    **{encoding: (*_BEGIN, (b"grpc-encoding", encoding)) for encoding in ENCODINGS[1:]},
}
"""What comes before the first message of an answer, by the encoding that the call's messages may have."""
OK: Headers = ((b"grpc-status", b"0"),)
"""What comes behind the last message."""


class NoGrpcRequest(Exception):
    """Not a gRPC call at all: answered in HTTP's terms.

    Args:
        status: HTTP's status code.
        text: the answer's body.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class CallHead:
    """What the headers of a call say, but for its timeout, which is another one each time."""

    path: bytes
    """`/service/method`."""
    method: str
    """The method alone."""
    encoding: bytes
    """How its messages are compressed, if they are."""
    authorization: str | None
    headers: Headers
    """All of them, as they came."""
    timeout_at: int
    """Where among them the timeout is; -1 where there is none."""

    @property
    def metadata(self) -> Metadata:
        """Its headers by name. The last one of a name counts, as in a dictionary of grpcio's."""
        return {
            name.decode("latin-1"): _read_binary(value) if name.endswith(b"-bin") else value.decode("latin-1")
            for name, value in self.headers
            if not name.startswith(b":") and name != _TIMEOUT
        }

    def fits(self, headers: Headers) -> bool:
        """Whether these say the same, but for the timeout."""
        at, own = self.timeout_at, self.headers
        if at < 0 or headers == own:
            return headers == own
        return (
            len(headers) == len(own)
            and headers[at][0] == _TIMEOUT
            and headers[:at] == own[:at]
            and headers[at + 1 :] == own[at + 1 :]
        )


class HeadReader:
    """Reads the headers of the calls of one connection, which are mostly those of the call before.

    Args:
        limit: bytes that the headers of one call may have, as HTTP/2 counts them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._last: CallHead | None = None

    def read(self, headers: Headers) -> tuple[CallHead, float | None]:
        """What the headers say, and how many seconds the client is willing to wait.

        Raises:
            NoGrpcRequest: they are those of another protocol.
            InvalidRequest: the timeout is malformed.
            UnknownMethod: the messages are compressed in a way that is not known here.
            MessageTooLarge: the headers are.
        """
        head = self._last
        if head is None or not head.fits(headers):
            if (size := _size_of(headers)) > self._limit:
                raise MessageTooLarge(f"Received headers larger than max ({size} vs. {self._limit})")
            head = self._last = read_head(headers)
        return head, None if head.timeout_at < 0 else read_timeout(headers[head.timeout_at][1])


def read_head(headers: Headers) -> CallHead:
    """What the headers of a call say. Raises as `HeadReader.read` does."""
    fields = dict(headers)
    if fields.get(b":method") != b"POST":
        raise NoGrpcRequest(405, "gRPC calls are POST requests.")
    content_type = fields.get(b"content-type", b"").partition(b";")[0].strip()
    if content_type not in _CONTENT_TYPES:
        raise NoGrpcRequest(415, "The content type of a gRPC call is application/grpc.")
    encoding = fields.get(b"grpc-encoding", b"identity")
    if encoding not in ENCODINGS:
        raise UnknownMethod(f"grpc-encoding '{_shown(encoding)}' is not one of identity, gzip, deflate.")
    authorization = b",".join(value for name, value in headers if name == b"authorization")  # two are as good as none
    path = fields.get(b":path", b"")
    return CallHead(
        path,
        path.rpartition(b"/")[2].decode("latin-1"),
        encoding,
        authorization.decode("latin-1") if authorization else None,
        headers,
        next((place for place, (name, _) in enumerate(headers) if name == _TIMEOUT), -1),
    )


def read_timeout(value: bytes) -> float:
    """Seconds of a `grpc-timeout`: at most eight digits and a unit.

    Raises:
        InvalidRequest: it is not that.
    """
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > _MOST_DIGITS:
        raise InvalidRequest(f"grpc-timeout '{_shown(value)}' is malformed: expected up to 8 digits and one of HMSmun.")
    return int(digits) * unit


def status_headers(status: Status, text: str) -> tuple[Header, ...]:
    """The trailers of a call that ends with this status."""
    if not text:
        return ((b"grpc-status", b"%d" % status),)
    return (b"grpc-status", b"%d" % status), (b"grpc-message", percent_encode(text))


def refusal_headers(status: Status, text: str) -> Headers:
    """The whole answer to a call that gets no message: a status that balancers may retry."""
    known = (_ACCEPT_ENCODING,) if status is Status.UNIMPLEMENTED else ()
    return (*_BEGIN, *known, *status_headers(status, text))


def percent_encode(text: str) -> bytes:
    """A `grpc-message`: printable ASCII but for the percent sign stays, other bytes of UTF-8 become %XX."""
    data = text.encode("utf-8", "replace")
    if data.isascii() and text.isprintable() and b"%" not in data:
        return data
    return b"".join(b"%c" % byte if 32 <= byte < 127 and byte != 37 else b"%%%02X" % byte for byte in data)


def metadata_headers(metadata: Metadata) -> tuple[Header, ...]:
    """Headers that a handler adds to its answer."""
    return tuple(
        (name.encode("latin-1"), value.encode("latin-1") if isinstance(value, str) else base64.b64encode(value))
        for name, value in metadata.items()
    )


def _read_binary(value: bytes) -> bytes:
    """The value of a `-bin` header, with or without padding; what is no base64 is nothing."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return b""


def _size_of(headers: Headers) -> int:
    """Bytes of a header list as HTTP/2 counts them (RFC 9113, 6.5.2)."""
    return sum(len(name) + len(value) + 32 for name, value in headers)


def _shown(value: bytes) -> str:
    return value[:40].decode("latin-1")
