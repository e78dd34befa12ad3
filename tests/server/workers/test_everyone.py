import asyncio

import pytest

from conveyor_server.core.errors import ModelNotFound, ModelNotReady, ServerFailed
from conveyor_server.workers.channel import OtherGone
from conveyor_server.workers.everyone import Everyone
from conveyor_server.workers.sayings import Change, Topic


class PuppetWorker:
    """Answers every question with the same thing, or raises it."""

    def __init__(self, number, answer, told_to_load=True):
        self.number, self.answer, self.told_to_load = number, answer, told_to_load
        self.leaving = False
        self.asked = []

    async def ask(self, topic, body=None):
        self.asked.append((topic, body))
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


LOAD, UNLOAD = Change("digits", load=True), Change("digits", load=False)


async def test_a_change_is_for_all_and_for_those_to_come():
    workers = [PuppetWorker(1, None), PuppetWorker(2, None), PuppetWorker(3, None, told_to_load=False)]
    everyone = Everyone(lambda: workers)
    await everyone.change(LOAD)
    await everyone.change(other := Change("other", load=True, config=b"config"))
    assert [worker.asked for worker in workers[:2]] == [[(Topic.CHANGE, LOAD), (Topic.CHANGE, other)]] * 2
    assert workers[2].asked == [], "it is told with the order to load"
    assert everyone.changes() == [LOAD, other]
    await everyone.change(UNLOAD)
    assert everyone.changes() == [other, UNLOAD], "the last one counts"


async def test_a_change_that_fails_everywhere_leaves_no_trace():
    workers = [PuppetWorker(1, None), PuppetWorker(2, None)]
    everyone = Everyone(lambda: workers)
    await everyone.change(LOAD)
    for worker in workers:
        worker.answer = ModelNotFound("nothing is there")
    with pytest.raises(ModelNotFound, match=r"^nothing is there$"):
        await everyone.change(UNLOAD)
    assert everyone.changes() == [LOAD]


async def test_a_change_that_fails_somewhere_says_where_and_stays():
    everyone = Everyone(lambda: [PuppetWorker(1, None), PuppetWorker(2, ModelNotFound("No memory.")), gone])
    gone = PuppetWorker(3, OtherGone())
    with pytest.raises(ModelNotFound, match=r"^No memory. This is so at worker 2; 1 of 2 have done it.$"):
        await everyone.change(LOAD)
    assert everyone.changes() == [LOAD]


async def test_nobody_is_there_to_do_it():
    with pytest.raises(ModelNotReady, match="Ask again"):
        await Everyone(list).change(LOAD)
    with pytest.raises(ModelNotReady, match="Ask again"):
        await Everyone(list).statistics(b"")


async def test_answers_come_from_those_that_have_one():
    workers = [PuppetWorker(1, b"one"), PuppetWorker(2, ModelNotFound("no")), PuppetWorker(3, OtherGone())]
    assert await Everyone(lambda: workers).statistics(b"request") == [(1, b"one")]
    assert workers[0].asked == [(Topic.STATISTICS, b"request")]
    with pytest.raises(ModelNotFound, match=r"^no$"):
        await Everyone(lambda: workers[1:]).index(b"")


async def test_a_bug_is_no_answer():
    with pytest.raises(KeyError):
        await Everyone(lambda: [PuppetWorker(1, b"one"), PuppetWorker(2, KeyError())]).index(b"")


async def test_all_look_for_new_models_whatever_happens_to_one():
    workers = [PuppetWorker(1, ServerFailed("no")), PuppetWorker(2, OtherGone()), PuppetWorker(3, None)]
    await Everyone(lambda: workers).look()
    assert [worker.asked for worker in workers] == [[(Topic.LOOK, None)]] * 3
