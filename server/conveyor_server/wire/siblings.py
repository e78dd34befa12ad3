"""What a handler asks of all processes that serve the same port, where there are several. Knows not how it is done."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from conveyor_server.generated import model_config_pb2 as pb


class ModelChanges(Protocol):
    """Who loads and unloads models: the repository of the only process, or all of them.

    Raises, in each method:
        RequestError: it was not done, or not everywhere; the text says where not.
    """

    async def load_model(self, name: str, config: pb.ModelConfig | None = None) -> None:
        """Loads a model, or loads it anew; with this configuration, or that of its folder."""

    async def unload_model(self, name: str) -> None:
        """Takes a model out of service."""


class Said(NamedTuple):
    """The answer of one process."""

    worker: int
    """Its number."""
    message: bytes
    """A serialised response."""


class Siblings(ModelChanges, Protocol):
    """All processes that serve the same port, this one included."""

    async def statistics(self, request: bytes) -> Sequence[Said]:
        """What each answers to a ModelStatisticsRequest.

        Raises:
            RequestError: none of them has an answer; this is the first one's reason.
        """

    async def index(self, request: bytes) -> Sequence[Said]:
        """What each answers to a RepositoryIndexRequest."""
