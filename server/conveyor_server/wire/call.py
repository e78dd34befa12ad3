"""What a service handler knows of a call. Each transport brings its own; tests bring one without a socket."""

from collections.abc import Callable, Mapping
from typing import Protocol

from google.protobuf.message import Message

from conveyor_server.core.errors import RequestError


class Call(Protocol):
    """One request in progress. It is answered or failed once; attempts after that, or after a cancel, do nothing."""

    method: str
    """The RPC that brought it."""
    deadline: float
    """On the event loop's clock, in seconds; `math.inf` for none."""
    request_id: str
    """The client's name for the request, which the service sets when it has read it."""

    @property
    def caller(self) -> str:
        """The name of the token that it came with; empty where the server has none."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The call's headers that are text, by name in lower case."""

    def answer(self, response: Message) -> None:
        """Sends the response."""

    def fail(self, error: RequestError) -> None:
        """Sends the error's status code and text."""

    def when_cancelled(self, action: Callable[[], None]) -> None:
        """Has `action` called, once, if the client gives the call up before it is answered."""
