import asyncio
import itertools

import pytest

from conveyor_server.workers.pool import Pool, WorkerState
from conveyor_server.workers.sayings import State, Topic
from support.virtual_time import run_in_virtual_time

LOADED = State(loaded=True, answers=True, served=("digits",))


class PuppetWorker:
    """Becomes what the test says, when the test says so."""

    def __init__(self, number):
        self.number, self.pid = number, 0
        self.up = self.takes_connections = True
        self.leaving = self.is_silent = False
        self.state = State()
        self.connections = self.sent_away = 0
        self.failure, self.lifetime = "", 1.0
        self.told = []
        self._code = asyncio.get_running_loop().create_future()

    @property
    def answers(self):
        return self.state.answers

    async def watch(self):
        await asyncio.Event().wait()

    async def ended(self):
        return await asyncio.shield(self._code)

    def end(self, code=0):
        if not self._code.done():
            self._code.set_result(code)

    def kill(self):
        self.end(-9)

    def leave(self, topic):
        self.leaving = True
        self.told.append(topic)

    def send_away(self, count):
        self.sent_away += count


class Scene:
    """A pool of puppets."""

    def __init__(self, count=2):
        self.born, self.buried = [], []
        self.pool = Pool(count, self._launch, self.buried.append, drain_seconds=30)

    def _launch(self, number):
        worker = PuppetWorker(number)
        self.born.append(worker)
        return worker

    async def change(self, worker, state=LOADED):
        worker.state = state
        self.pool.news.notify()
        await settle()


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


def play(scenario):
    async def run():
        scene = Scene()
        scene.pool.start()
        try:
            await scenario(scene)
        finally:
            scene.pool.kill()
            await settle()

    run_in_virtual_time(run())


def test_it_is_ready_first_with_all_of_them_and_then_with_half():
    async def scenario(scene):
        first, second = scene.born
        await scene.change(first)
        assert not scene.pool.ready
        assert not scene.pool.settled
        await scene.change(second)
        assert scene.pool.ready
        assert scene.pool.settled
        second.end(1)
        await settle()
        assert scene.pool.ready
        first.state = State()
        assert not scene.pool.ready

    play(scenario)


def test_a_connection_goes_to_who_serves_and_has_the_fewest():
    async def scenario(scene):
        first, second = scene.born
        first.connections = 5
        assert scene.pool.choose() is second
        await scene.change(first)
        assert scene.pool.choose() is first, "the other one has no models yet"
        await scene.change(second)
        assert scene.pool.choose() is second
        second.is_silent = True
        assert scene.pool.choose() is first
        first.takes_connections = False
        assert scene.pool.choose() is second, "better than nobody"
        second.takes_connections = False
        assert scene.pool.choose() is None

    play(scenario)


def test_a_worker_that_dies_is_followed_by_one_that_gets_its_share_of_connections():
    async def scenario(scene):
        first, second = scene.born
        await scene.change(first)
        await scene.change(second)
        second.end(-9)
        await settle()
        third = scene.born[2]
        assert third.number == 2
        assert scene.buried == [second]
        assert scene.pool.restarts == 1
        first.connections = 9
        await scene.change(third)
        assert first.sent_away == 4

    play(scenario)


def test_who_dies_again_and_again_is_started_less_and_less_often():
    async def scenario(scene):
        for worker in list(scene.born):
            await scene.change(worker)
        begun = []
        for _ in range(8):
            scene.born[-1].end(1)
            await settle()
            count = len(scene.born)
            while len(scene.born) == count:
                await asyncio.sleep(0.25)
                if scene.pool.states()[WorkerState.FAILED] == 0:
                    break
            begun.append(asyncio.get_running_loop().time())
        pauses = [round(later - earlier) for earlier, later in itertools.pairwise(begun)]
        assert pauses == [1, 2, 4, 8, 16, 30, 30]

    play(scenario)


@pytest.mark.parametrize("up", [True, False])
def test_who_cannot_start_ends_the_start_and_later_only_waits(up):
    async def scenario(scene):
        worker = scene.born[0]
        worker.up, worker.failure = up, "the port is taken" if up else ""
        worker.end(1)
        await settle()
        assert ("the port is taken" if up else "had not begun to serve") in str(scene.pool.failure)

    play(scenario)


def test_a_reload_replaces_one_after_the_other():
    async def scenario(scene):
        old = list(scene.born)
        for worker in old:
            await scene.change(worker)
        reload = asyncio.create_task(scene.pool.replace_all())
        for index, worker in enumerate(old):
            await settle()
            new = scene.born[-1]
            assert len(scene.born) == 3 + index
            assert not worker.leaving, "before the new one is ready"
            await scene.change(new)
            assert worker.told == [Topic.RETIRE]
            assert scene.pool.ready
            worker.end(0)
        await reload
        assert scene.pool.current == scene.born[2:]
        assert scene.pool.restarts == 0

    play(scenario)


@pytest.mark.parametrize("dies", [True, False])
def test_a_reload_that_fails_keeps_the_old_ones(dies):
    async def scenario(scene):
        old = list(scene.born)
        for worker in old:
            await scene.change(worker)
        reload = asyncio.create_task(scene.pool.replace_all())
        await settle()
        if dies:
            scene.born[-1].end(1)
        else:
            await scene.change(scene.born[-1], State(loaded=True))
        await reload
        await settle()
        assert scene.pool.workers == scene.pool.current == old
        assert not any(worker.leaving for worker in old)

    play(scenario)


def test_a_stop_waits_for_all_and_kills_who_takes_too_long():
    async def scenario(scene):
        first, second = scene.born
        for worker in (first, second):
            await scene.change(worker)
        stopping = asyncio.create_task(scene.pool.stop())
        await settle()
        assert first.told == second.told == [Topic.STOP]
        first.end(0)
        await stopping
        await settle()
        assert asyncio.get_running_loop().time() == pytest.approx(40)
        assert scene.pool.workers == []
        assert len(scene.born) == 2, "nobody is started any more"

    play(scenario)
