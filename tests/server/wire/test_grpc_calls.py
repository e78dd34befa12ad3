import asyncio

import pytest

import pytest

from conveyor_server.core.errors import ModelNotFound
from conveyor_server.wire.grpc_calls import GrpcCall


class Context:
    """What a call asks of grpcio's."""

    def time_remaining(self):
        return None


@pytest.mark.parametrize("moment", ["never", "before the cancel", "after the cancel"])
async def test_a_call_is_given_up_unless_it_is_answered_in_the_same_turn_of_the_loop(moment):
    call = GrpcCall(Context(), None, "ModelInfer")
    given_up = []
    call.when_cancelled(lambda: given_up.append(call))

    async def handle():
        try:
            await call.outcome
        except asyncio.CancelledError:
            call.cancelled()

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)
    if moment == "before the cancel":
        call.answer(b"")
    task.cancel()
    if moment == "after the cancel":
        call.answer(b"")
    await task
    assert given_up == ([call] if moment == "never" else [])
@pytest.fixture
async def call():
    return GrpcCall(Context(), None, "ModelInfer")


async def test_a_client_that_gives_up_is_told_to_the_handler(call):
    told = []
    call.when_cancelled(lambda: told.append(True))
    call.cancelled()
    assert told == [True]


@pytest.mark.parametrize("end", [lambda call: call.answer(b"x"), lambda call: call.fail(ModelNotFound("x"))])
@pytest.mark.parametrize("registered", ["before", "after"])
async def test_a_client_that_gives_up_when_the_outcome_is_there_is_too_late(call, end, registered):
    """The outcome waits for its turn in the event loop; the request has ended, and cannot be given up any more."""
    told = []
    if registered == "before":
        call.when_cancelled(lambda: told.append(True))
    end(call)
    if registered == "after":
        call.when_cancelled(lambda: told.append(True))
    call.cancelled()
    assert told == []
