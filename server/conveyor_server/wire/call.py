"""What a service handler knows of a call. Each transport brings its own; tests bring one without a socket."""

from collections.abc import Callable, Mapping
from typing import Protocol

from conveyor_server.core.errors import RequestError

Metadata = Mapping[str, str | bytes]
"""Headers by name in lower case; those whose names end in `-bin` are bytes."""


class Context(Protocol):
    """What surrounds a request: how long it may take, and what travels beside its messages."""

    deadline: float
    """On the event loop's clock, in seconds; `math.inf` for none."""
    initial_metadata: Metadata
    """Headers to send before the first message of the answer; set by a handler that has some."""
    trailing_metadata: Metadata
    """Headers to send behind the last one."""

    @property
    def caller(self) -> str:
        """The name of the token that it came with; empty where the server has none."""

    @property
    def metadata(self) -> Metadata:
        """The client's headers."""


class Call(Context, Protocol):
    """One request in progress. It is answered or failed once; attempts after that, or after a cancel, do nothing."""

    method: str
    """The RPC that brought it."""
    request_id: str
    """The client's name for the request, which the service sets when it has read it."""

    def answer(self, response: bytes) -> None:
        """Sends the response, a serialised message."""

    def fail(self, error: RequestError) -> None:
        """Sends the error's status code and text."""

    def when_cancelled(self, action: Callable[[], None]) -> None:
        """Has `action` called, once, if the client gives the call up before it is answered."""
