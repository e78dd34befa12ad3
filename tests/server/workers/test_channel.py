import asyncio
import os
import socket

import pytest

from conveyor_server.core.errors import ModelNotFound, ServerFailed
from conveyor_server.workers.channel import Channel, OtherGone
from conveyor_server.workers.frames import Frame, Kind


class Ends:
    """Two ends of one socket, in one event loop, and what each has heard."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        self.heard, self.lost = asyncio.Queue(), asyncio.Queue()
        self.release = asyncio.Event()
        self.ours = Channel(ours, {}, {}, lambda: self.lost.put_nowait("ours"))
        self.theirs = Channel(
            theirs,
            {"say": lambda *said: self.heard.put_nowait(said)},
            {"double": self._double, "refuse": self._refuse, "break": self._break, "wait": self._wait},
            lambda: self.lost.put_nowait("theirs"),
        )

    async def _double(self, body):
        return 2 * body

    async def _refuse(self, body):
        raise ModelNotFound(f"no {body}")

    async def _break(self, body):
        raise KeyError(body)

    async def _wait(self, body):
        await self.release.wait()
        return body


@pytest.fixture
async def ends():
    ends = Ends()
    yield ends
    ends.ours.close()
    ends.theirs.close()


async def test_notices_come_in_order_and_questions_are_answered(ends):
    for number in range(1000):
        ends.ours.tell("say", number)
    waiting = asyncio.create_task(ends.ours.ask("wait", "late"))
    assert await ends.ours.ask("double", 21) == 42, "an answer waits for no other"
    assert [await ends.heard.get() for _ in range(1000)] == [(number, None) for number in range(1000)]
    ends.release.set()
    assert await waiting == "late"


async def test_an_error_for_the_client_comes_back_and_a_bug_stays_in_the_log(ends, caplog):
    with pytest.raises(ModelNotFound, match="no model"):
        await ends.ours.ask("refuse", "model")
    with pytest.raises(ServerFailed, match="The server's log has the details"):
        await ends.ours.ask("break", "secret")
    assert "Answering 'break' failed. This is a bug." in caplog.text


async def test_open_files_go_with_their_own_notices(ends):
    pipes = [os.pipe() for _ in range(40)]
    for number, (_, write) in enumerate(pipes):
        ends.ours.tell("say", f"{number} {'x' * 3000}", descriptor=write)
        ends.ours.tell("say", "without")
    for number, (read, _) in enumerate(pipes):
        said, descriptor = await ends.heard.get()
        assert said.startswith(f"{number} ")
        os.write(descriptor, str(number).encode())
        os.close(descriptor)
        assert os.read(read, 10) == str(number).encode()
        assert os.read(read, 10) == b"", "nobody else has kept it open"
        os.close(read)
        assert await ends.heard.get() == ("without", None)


async def test_what_does_not_fit_the_socket_follows_when_there_is_room(ends):
    ends.ours.tell("say", b"x" * 2**24)
    ends.ours.tell("say", "end")
    assert ends.ours.is_clogged
    await ends.ours.flush()
    assert not ends.ours.is_clogged
    assert [len(said) for said, _ in [await ends.heard.get(), await ends.heard.get()]] == [2**24, 3]


async def test_when_the_other_end_has_gone_questions_end_and_nothing_leaks(ends):
    asked = asyncio.create_task(ends.ours.ask("wait"))
    assert await ends.ours.ask("double", 1) == 2  # so the first question has arrived
    ends.theirs.close()
    with pytest.raises(OtherGone):
        await asked
    assert await ends.lost.get() == "ours"
    with pytest.raises(OtherGone):
        await ends.ours.ask("double", 1)
    read, write = os.pipe()
    ends.ours.tell("say", "to nobody", descriptor=write)
    assert os.read(read, 1) == b"", "it was closed"
    os.close(read)


async def test_what_was_said_last_is_heard_before_the_end():
    ours, theirs = socket.socketpair()
    lost, heard = asyncio.Event(), []
    channel = Channel(ours, {"say": lambda body, _: heard.append(body)}, {}, lost.set)
    with theirs:
        for word in ("last", "words"):
            theirs.sendall(Frame(Kind.NOTICE, "say", word).encode())
    channel.tell("anything", b"x" * 2**20)  # to someone who does not read it any more
    await lost.wait()
    assert heard == ["last", "words"]


async def test_nonsense_ends_the_channel(caplog):
    ours, theirs = socket.socketpair()
    lost = asyncio.Event()
    Channel(ours, {}, {}, lost.set)
    with theirs:
        theirs.sendall(b"\0\0\0\4junk")
        await lost.wait()
    assert "This is a bug." in caplog.text
