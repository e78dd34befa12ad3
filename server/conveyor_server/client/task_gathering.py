"""Gathers the calls of asyncio's tasks: who waits, and who sends. What travels together is not decided here."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from conveyor_server.client.asking import Asking
from conveyor_server.client.gathering import Gathered, Gathering
from conveyor_server.client.inference import Contents, Join, Outcome


class TaskGathering:
    """The calls of tasks that wait for company.

    A call that leaves alone is sent by the task that made it, others by a task for each request.

    Args:
        gathering: what travels together.
        delay: seconds that a call may have to wait for company.
        asking: has the clock, and the error of who waited too long.
        send: sends a request that leaves; returns what came of each member.
    """

    def __init__(
        self,
        gathering: Gathering[Contents],
        delay: float,
        asking: Asking,
        send: Callable[[Gathered[Contents]], Awaitable[list[Outcome]]],
    ) -> None:
        self._gathering = gathering
        self._delay = delay
        self._asking = asking
        self._send = send
        self._tasks: dict[Gathered[Contents], asyncio.Task[None]] = {}

    async def join(self, step: Join) -> Outcome:
        """What came of a call.

        Raises:
            CallError: there is no answer for it, or not in time.
        """
        loop = asyncio.get_running_loop()
        member = step.member
        member.reply = loop.create_future()
        leaving = self._gathering.join(step.kind, member, step.limit)
        request = member.request
        assert request is not None
        alone = request.left and len(request.members) == 1
        self._dispatch([one for one in leaving if not (alone and one is request)])
        if not request.left and request.members[0] is member and self._delay:
            loop.call_later(self._delay, lambda: self._dispatch(self._gathering.depart(request)))
        try:
            if alone:
                try:
                    await self._carry(request)
                finally:
                    self._arrived(request)
            async with asyncio.timeout(member.deadline - self._asking.clock()):
                outcome: Outcome | BaseException = await member.reply
        except BaseException as error:
            self._gathering.give_up(member)
            if request.abandoned and request in self._tasks:
                self._tasks[request].cancel()
            if isinstance(error, TimeoutError):
                raise self._asking.expired() from None
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def close(self) -> None:
        """Waits for the tasks, when the connections are closed and whatever they still send fails."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    def _dispatch(self, requests: list[Gathered[Contents]]) -> None:
        for request in requests:
            task = self._tasks[request] = asyncio.create_task(self._carry(request))
            # Not by the task itself: one that is cancelled before its first step takes none.
            task.add_done_callback(partial(self._arrived, request))

    def _arrived(self, request: Gathered[Contents], _: object = None) -> None:
        self._tasks.pop(request, None)
        self._dispatch(self._gathering.arrived(request))

    async def _carry(self, request: Gathered[Contents]) -> None:
        """Sends a request, and gives each member what came of it."""
        outcomes: Sequence[Outcome | BaseException]
        try:
            outcomes = await self._send(request)
        except Exception as error:  # of whatever kind: nobody may be left waiting for it
            outcomes = [error] * len(request.members)
        for member, outcome in zip(request.members, outcomes, strict=True):
            if not member.reply.done():
                member.reply.set_result(outcome)
