"""Takes the steps of a procedure, for threads and for asyncio, and hands back what came of each."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from conveyor_server.client.asking import Steps
from conveyor_server.client.errors import CallError

_R = TypeVar("_R")


def drive(steps: Steps[_R], take: Callable[[Any], object]) -> _R:
    """The result of a procedure, each step of which `take` takes."""
    try:
        step = next(steps)
        while True:
            try:
                came = take(step)
            except CallError as error:
                step = steps.throw(error)
            else:
                step = steps.send(came)
    except StopIteration as done:
        return cast("_R", done.value)


async def drive_async(steps: Steps[_R], take: Callable[[Any], Awaitable[object]]) -> _R:
    """The same where taking a step is a coroutine."""
    try:
        step = next(steps)
        while True:
            try:
                came = await take(step)
            except CallError as error:
                step = steps.throw(error)
            else:
                step = steps.send(came)
    except StopIteration as done:
        return cast("_R", done.value)
