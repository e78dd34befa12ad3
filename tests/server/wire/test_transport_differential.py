"""The same random calls, cancels and deadlines to both transports: a client cannot tell them apart."""

import asyncio

import grpc
import grpc.aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conveyor_server.wire.connection_limits import ConnectionLimits
from conveyor_server.wire.grpc_transport import GrpcTransport
from conveyor_server.wire.h2.limits import Limits
from conveyor_server.wire.h2.transport import H2Transport
from support.echo_service import NAME, TRAILING, EchoService, message, read

LIMIT = 2**18
FAR = 600.0
KNOWN = f"/{NAME}/Now", f"/{NAME}/Later"

ENDINGS = st.one_of(
    st.fixed_dictionaries({"size": st.integers(0, 3000), "text": st.text(max_size=20)}),
    st.fixed_dictionaries({"size": st.sampled_from([LIMIT // 2, 2 * LIMIT])}),
    st.fixed_dictionaries(
        {
            "error": st.sampled_from(["InvalidRequest", "ModelNotFound", "Overloaded", "ServerFailed", "NotPermitted"]),
            "text": st.text(max_size=30),
        }
    ),
)
COMPRESSION = st.sampled_from([None, grpc.Compression.Gzip, grpc.Compression.Deflate])
UNARY = st.fixed_dictionaries(
    {
        "path": st.sampled_from([*KNOWN, f"/{NAME}/Nope", "/no.Such/Thing"]),
        "request": ENDINGS,
        "compression": COMPRESSION,
        "metadata": st.sampled_from([(), ((TRAILING, b"\0\1\xff"),)]),
        "how": st.sampled_from(["wait", "wait", "cancel", "expire"]),
    }
)
STREAM = st.fixed_dictionaries(
    {
        "requests": st.lists(ENDINGS, max_size=4),
        "compression": COMPRESSION,
        "stop_after": st.sampled_from([None, None, 0, 1, 2]),
    }
)


async def unary(channel, case):
    how = case["how"] if case["path"] in KNOWN else "wait"
    fields = case["request"] if how == "wait" else {**case["request"], "wait": FAR}
    timeout = 0.02 if how == "expire" else None
    call = channel.unary_unary(case["path"])(
        message(**fields), timeout=timeout, compression=case["compression"], metadata=case["metadata"]
    )
    if how == "cancel":
        await asyncio.sleep(0.01)
        call.cancel()
    try:
        answer = read(await call)
        return "OK", answer["text"], len(answer["payload"]), sorted(await call.trailing_metadata())
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() if error.code() is not grpc.StatusCode.UNIMPLEMENTED else ""
    except asyncio.CancelledError:
        return ("CANCELLED",)


async def stream(channel, case):
    call = channel.stream_stream(f"/{NAME}/Chat")(compression=case["compression"])
    got = []
    try:
        for number, fields in enumerate(case["requests"]):
            if number == case["stop_after"]:
                call.cancel()
                break
            await call.write(message(**fields))
            answer = await call.read()
            if answer is grpc.aio.EOF:
                break
            got.append(len(answer))
        else:
            await call.done_writing()
            await call.read()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
        pass
    return got, (await call.code()).name


async def outcomes(transport, unary_cases, stream_cases):
    await transport.start()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{transport.port}", options) as channel:
        found = await asyncio.gather(
            *(unary(channel, case) for case in unary_cases), *(stream(channel, case) for case in stream_cases)
        )
    await transport.stop(5)
    assert transport.in_progress == 0
    return found


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(UNARY, max_size=12), st.lists(STREAM, max_size=4))
def test_both_transports_do_the_same(unary_cases, stream_cases):
    async def both():
        return await asyncio.gather(
            outcomes(
                H2Transport(EchoService(), "127.0.0.1", 0, Limits(max_message_bytes=LIMIT)), unary_cases, stream_cases
            ),
            outcomes(
                GrpcTransport(EchoService(), "127.0.0.1", 0, ConnectionLimits(max_message_bytes=LIMIT)),
                unary_cases,
                stream_cases,
            ),
        )

    ours, theirs = asyncio.run(both())
    for case, one, other in zip([*unary_cases, *stream_cases], ours, theirs, strict=True):
        assert _comparable(one) == _comparable(other), case


def _comparable(outcome):
    """Texts of limits and deadlines are those of whoever notices first; everything else is the same to the letter."""
    return outcome[:1] if outcome[0] in ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED") else outcome
