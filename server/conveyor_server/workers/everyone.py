"""What concerns all workers: changes of models, done by each, and questions that each answers for itself."""

import asyncio
from collections.abc import Callable, Sequence

from conveyor_server.core.errors import ModelNotReady, RequestError
from conveyor_server.workers.channel import OtherGone
from conveyor_server.workers.sayings import Change, Topic
from conveyor_server.workers.worker_process import WorkerProcess

_Answers = Sequence[tuple[int, object]]


class Everyone:
    """All workers that have been told to load, as one of them asks for them.

    Args:
        workers: those that run.
    """

    def __init__(self, workers: Callable[[], Sequence[WorkerProcess]]) -> None:
        self._workers = workers
        self._made: dict[str, Change] = {}
        self._one_change = asyncio.Lock()

    def changes(self) -> list[Change]:
        """What clients have made of the models so far, for a worker that starts: the last change of each, in order."""
        return list(self._made.values())

    async def change(self, change: Change) -> None:
        """Has all workers do it, and returns when all have.

        Raises:
            RequestError: the first one's reason, and where it did not work if it did elsewhere.
        """
        async with self._one_change:
            before = self._made.pop(change.model, None)
            self._made[change.model] = change  # already now: a worker that starts meanwhile shall have it, too
            answers = await self._ask(Topic.CHANGE, change)
            failures = {number: answer for number, answer in answers if isinstance(answer, RequestError)}
            if len(failures) == len(answers):
                del self._made[change.model]
                if before is not None:
                    self._made[change.model] = before
        if failures or not answers:
            raise _failure(failures, len(answers))

    async def statistics(self, request: bytes) -> list[tuple[int, bytes]]:
        """What each answers to a ModelStatisticsRequest, by its number.

        Raises:
            RequestError: none of them has an answer.
        """
        return await self._gather(Topic.STATISTICS, request)

    async def index(self, request: bytes) -> list[tuple[int, bytes]]:
        """What each answers to a RepositoryIndexRequest."""
        return await self._gather(Topic.INDEX, request)

    async def look(self) -> None:
        """Has each look for what is new in the folder, one after the other: so at most one is busy with loading."""
        for worker in self._workers():
            if worker.told_to_load and not worker.leaving:
                try:
                    await worker.ask(Topic.LOOK)
                except (OtherGone, RequestError):
                    continue  # whoever comes in its place has looked; its log has what went wrong

    async def _gather(self, topic: Topic, request: bytes) -> list[tuple[int, bytes]]:
        answers = await self._ask(topic, request)
        good = [(number, answer) for number, answer in answers if isinstance(answer, bytes)]
        if not good:
            raise _failure({number: answer for number, answer in answers if isinstance(answer, RequestError)}, 0)
        return good

    async def _ask(self, topic: Topic, body: object) -> _Answers:
        """What each says; one that ends meanwhile says nothing."""
        asked = [worker for worker in self._workers() if worker.told_to_load and not worker.leaving]
        answers = await asyncio.gather(*(worker.ask(topic, body) for worker in asked), return_exceptions=True)
        if bugs := [a for a in answers if isinstance(a, BaseException) and not isinstance(a, RequestError | OtherGone)]:
            raise bugs[0]
        named = zip((worker.number for worker in asked), answers, strict=True)
        return [(number, answer) for number, answer in named if not isinstance(answer, OtherGone)]


def _failure(failures: dict[int, RequestError], workers: int) -> RequestError:
    """One error of those of several workers."""
    if not failures:
        return ModelNotReady("No worker was there to do it. Ask again.")
    number, first = next(iter(failures.items()))
    if len(failures) == workers or not workers:
        return first
    return type(first)(f"{first} This is so at worker {number}; {workers - len(failures)} of {workers} have done it.")
