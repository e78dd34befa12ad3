"""The errors of a call, by whose fault they are. Knows status codes by name, not the library that carries them.

Arguments that can be judged without the server are `ValueError` and `TypeError`, as everywhere in Python.
"""

from typing import ClassVar, Self


class CallError(Exception):
    """A call that brought no answer; its children say whose fault that is.

    Attributes:
        code: name of the gRPC status code, for example `NOT_FOUND`.
        details: what the server said, or the connection where no server did.
        server: the address that was asked.
        attempts: how many times it was asked.
        pushback: seconds after which the server wants to be asked again; infinite for never; None if it did not say.
    """

    advice: ClassVar[str] = ""
    """What to do, as the end of the text."""

    def __init__(
        self, code: str, details: str, server: str = "", attempts: int = 1, pushback: float | None = None
    ) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details
        self.server = server
        self.attempts = attempts
        self.pushback = pushback

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, str, int, float | None]]:
        return type(self), (self.code, self.details, self.server, self.attempts, self.pushback)

    def copy(self) -> Self:
        """Another one with the same text: each of several callers raises one of its own."""
        kind, arguments = self.__reduce__()
        return kind(*arguments)

    def __str__(self) -> str:
        attempts = f", {self.attempts} attempts" if self.attempts > 1 else ""
        where = f" (server {self.server}{attempts})" if self.server else ""
        return f"{self.code}: {self.details}{where}{self.advice and '. '}{self.advice}"


class InvalidRequest(CallError, ValueError):
    """The request does not fit the model; the text says where. The same request would fail again."""


class NotFound(CallError):
    """No such model, or no such version of it."""

    advice = "Client.models() and `conveyor-client status` list what there is."


class AccessDenied(CallError):
    """No token or certificate, a wrong one, or one without the permission for this."""

    advice = "Give the client a `token` or a `certificate` that the server accepts for this call."


class TooLarge(CallError):
    """More than the server takes in one message, or grants at the moment."""

    advice = "Send fewer images at once."


class NotSupported(CallError):
    """The server has no such call. It may speak another protocol, or less of this one."""


class Unavailable(CallError, ConnectionError):
    """The server is not there, not ready, stopping or full, also after the attempts that the retry policy allows."""


class Unreachable(Unavailable):
    """No connection: wrong address, nothing listens there, no TLS where TLS is spoken, or the other way round."""

    advice = "Is a server running there, with TLS if and only if the client has it?"


class DeadlineExceeded(CallError, TimeoutError):
    """There was no answer within the call's `timeout`."""


class Cancelled(CallError):
    """The call was given up: the client was closed, or the server cut it off."""


class ServerError(CallError):
    """The server failed on a request that it had accepted, or answered what the protocol does not allow."""

    advice = "The server's log says more."


ERROR_OF: dict[str, type[CallError]] = {
    "CANCELLED": Cancelled,
    "UNKNOWN": ServerError,
    "INVALID_ARGUMENT": InvalidRequest,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": InvalidRequest,
    "PERMISSION_DENIED": AccessDenied,
    "RESOURCE_EXHAUSTED": TooLarge,
    "FAILED_PRECONDITION": InvalidRequest,
    "ABORTED": ServerError,
    "OUT_OF_RANGE": InvalidRequest,
    "UNIMPLEMENTED": NotSupported,
    "INTERNAL": ServerError,
    "UNAVAILABLE": Unavailable,
    "DATA_LOSS": ServerError,
    "UNAUTHENTICATED": AccessDenied,
}
"""The error of each of gRPC's status codes but OK."""

_NO_CONNECTION = ("failed to connect", "connections to all backends failing", "errors resolving", "DNS resolution")
"""How gRPC's own texts begin where no server was reached; no code tells this from a server's refusal."""


def error_of(code: str, details: str, server: str, pushback: float | None = None) -> CallError:
    """The error for a status."""
    kind = ERROR_OF[code]
    if kind is Unavailable and details.startswith(_NO_CONNECTION):
        kind = Unreachable
    return kind(code, details, server, pushback=pushback)
