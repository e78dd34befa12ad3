"""How a worker reaches all workers: through the supervisor."""

from collections.abc import Sequence

from conveyor_server.generated import model_config_pb2 as pb
from conveyor_server.wire.siblings import Said
from conveyor_server.workers.channel import Channel
from conveyor_server.workers.sayings import Change, Topic


class SupervisedSiblings:
    """All workers of a supervisor.

    Args:
        channel: to the supervisor.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def load_model(self, name: str, config: pb.ModelConfig | None = None) -> None:
        """Has all load it; the answer comes when all have.

        Raises:
            RequestError: it did not work everywhere; the text says where.
        """
        change = Change(name, load=True, config=None if config is None else config.SerializeToString())
        await self._channel.ask(Topic.CHANGE, change)

    async def unload_model(self, name: str) -> None:
        """Has all unload it. Raises as `load_model` does."""
        await self._channel.ask(Topic.CHANGE, Change(name, load=False))

    async def statistics(self, request: bytes) -> Sequence[Said]:
        """What each answers to a ModelStatisticsRequest.

        Raises:
            RequestError: none of them has an answer; this is the first one's reason.
        """
        return await self._ask_all(Topic.STATISTICS, request)

    async def index(self, request: bytes) -> Sequence[Said]:
        """What each answers to a RepositoryIndexRequest."""
        return await self._ask_all(Topic.INDEX, request)

    async def _ask_all(self, topic: Topic, request: bytes) -> list[Said]:
        return [Said(*answer) for answer in await self._channel.ask(topic, request)]
