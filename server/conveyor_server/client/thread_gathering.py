"""Gathers the calls of threads: who waits, who sends, who keeps time. What travels together is not decided here."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Lock

from conveyor_server.client.asking import Asking
from conveyor_server.client.gathering import Gathered, Gathering, Member
from conveyor_server.client.inference import Contents, Join, Outcome

_MOST_SENDERS = 64
"""Threads that send gathered requests. They come as they are needed, and further requests wait for one."""


class ThreadGathering:
    """The calls of threads that wait for company.

    A call that leaves alone is sent by the thread that made it. Others are sent by a pool of threads, because a caller
    may have less time than those it travels with. The thread that opens a request also keeps the time of its delay.

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
        send: Callable[[Gathered[Contents]], list[Outcome]],
    ) -> None:
        self._gathering = gathering
        self._delay = delay
        self._asking = asking
        self._send = send
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(_MOST_SENDERS, thread_name_prefix="conveyor-gathering")

    def join(self, step: Join) -> Outcome:
        """What came of a call.

        Raises:
            CallError: there is no answer for it, or not in time.
        """
        member = step.member
        member.reply = SimpleQueue()
        with self._lock:
            leaving = self._gathering.join(step.kind, member, step.limit)
            request = member.request
            assert request is not None
            keeps_time = self._delay > 0 and not request.left and request.members[0] is member
        for one in leaving:
            if one is request and len(one.members) == 1:
                self._carry(one)
            else:
                self._dispatch(one)
        try:
            outcome = self._wait(member, request, keeps_time)
        except BaseException:
            with self._lock:
                self._gathering.give_up(member)
                leaving = self._gathering.depart(request) if keeps_time else []
            self._dispatch(*leaving)
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def close(self) -> None:
        """Lets the threads end, when the connections are closed and whatever they still send fails."""
        self._pool.shutdown(wait=False)

    def _wait(self, member: Member[Contents], request: Gathered[Contents], keeps_time: bool) -> Outcome | BaseException:
        outcome: Outcome | BaseException
        if keeps_time:
            try:
                outcome = member.reply.get(timeout=self._delay)
            except Empty:
                with self._lock:
                    leaving = self._gathering.depart(request)
                self._dispatch(*leaving)
            else:
                return outcome
        try:
            outcome = member.reply.get(timeout=max(0.0, member.deadline - self._asking.clock()))
        except Empty:
            raise self._asking.expired() from None
        return outcome

    def _dispatch(self, *requests: Gathered[Contents]) -> None:
        for request in requests:
            try:
                self._pool.submit(self._carry, request)
            except RuntimeError:  # the client was closed, so sending fails at once, and all members hear of it
                self._carry(request)

    def _carry(self, request: Gathered[Contents]) -> None:
        """Sends a request, and gives each member what came of it."""
        outcomes: Sequence[Outcome | BaseException]
        try:
            outcomes = self._send(request)
        except BaseException as error:  # of whatever kind: nobody may be left waiting for it
            outcomes = [error] * len(request.members)
        with self._lock:
            leaving = self._gathering.arrived(request)
        self._dispatch(*leaving)
        for member, outcome in zip(request.members, outcomes, strict=True):
            member.reply.put(outcome)
