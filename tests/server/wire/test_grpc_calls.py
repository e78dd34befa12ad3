import asyncio

import pytest

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
