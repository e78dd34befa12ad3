"""Everything at once, for as long as `SOAK_SECONDS` says: a minute here, half an hour with `make soak`.

Servers live one after the other, on one socket, under clients of every kind that go on meanwhile. Each life has two
quiet moments, in which nothing may be left of what was, and ends by SIGTERM under load.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from conveyor_server.client import AsyncClient, Unavailable
from support.leaks import MIB, Watch, held_by
from support.onnx_models import classifier, save
from support.processes import ServerProcess
from support.soak_clients import MODEL, Clients, Tally

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
LIVES = max(3, round(SECONDS / 180))
LAST_SECONDS = 2.0
"""Of load, before the signal."""
RECONNECTED_SECONDS = 5.0
"""After a server is ready, a bare client may take so long to find it."""
FREE_GROWTH, GROWTH_A_MINUTE = 6 * MIB, 1 * MIB
"""By so much the memory may grow in the measured part of a life, and for each minute of it."""
POOL = min(32, (os.cpu_count() or 1) + 4)
"""Threads that asyncio starts one by one for what would block."""
CONTROLS = (("poll", "--poll-seconds", "0.2"), ("explicit", "--load", "*", "--allow-admin"))
NOT_AT_REST = ("conveyor_connections", "conveyor_in_flight_requests")


async def until(reached):
    """Asks again and again, for a minute at most."""
    async with asyncio.timeout(60):
        while True:
            if await reached():
                return
            await asyncio.sleep(0.1)


def open_files(process):
    """How many there are of each kind."""
    kinds = Counter()
    for file in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kinds[re.sub(r"\d+", "", str(file.readlink()))] += 1
    return kinds


class Versions:
    """New versions of the model, one after the other; each is served before the next one comes."""

    def __init__(self, root):
        self.root = root
        self.newest = 0
        self.publish()

    def publish(self):
        self.newest += 1
        made = save(classifier(seed=self.newest), self.root / ".new", MODEL, self.newest).parent
        (self.root / MODEL).mkdir(exist_ok=True)
        made.rename(self.root / MODEL / str(self.newest))
        shutil.rmtree(self.root / ".new")
        shutil.rmtree(self.root / MODEL / str(self.newest - 2), ignore_errors=True)

    async def load(self, client):
        try:
            await client.load(MODEL)
        except Unavailable:  # a machine that is busy enough lets a new connection wait too long
            return False
        return True

    async def is_served(self, client):
        try:
            return await client.ready(MODEL, self.newest)
        except Unavailable:
            return False

    async def follow(self, url, control, stopping):
        async with AsyncClient(url, timeout=60) as client:
            while not stopping.is_set():
                self.publish()
                if control == "explicit":
                    await until(lambda: self.load(client))
                await until(lambda: self.is_served(client))
                await asyncio.sleep(0.5)


class Soak:
    def __init__(self, folder):
        self.folder = folder
        self.versions = Versions(folder / "models")
        self.tally = Tally()
        self.socket = folder / "socket"
        self.clients = Clients(f"unix:{self.socket}", lambda: self.address, self.tally)
        self.gaps = []
        """From the signal to one server until its clients had found the next."""
        self.growths = []

    async def run(self, seconds):
        stopped = 0.0
        for life in range(LIVES):
            control, *flags = CONTROLS[life % 2]
            flags += ["--model-control", control, "--unix-socket", str(self.socket)]
            flags += ["--max-connection-age-seconds", "3"]
            self.server = ServerProcess(self.folder / "models", *flags)
            try:
                await asyncio.to_thread(self.server.__enter__)
                self.address = self.server.grpc_url
                if life:
                    self.gaps.append((stopped, time.monotonic() + RECONNECTED_SECONDS))
                else:
                    self.clients.start()
                await self.live(control, seconds / LIVES, last=life == LIVES - 1)
                stopped = time.monotonic()
                self.server.signal(signal.SIGTERM)
                assert await asyncio.to_thread(self.server.exit_code) == 0
            finally:
                self.server.__exit__(None, None, None)
            log = "\n".join(self.server.log)
            assert "Traceback" not in log, log[max(0, log.index("Traceback") - 1000) :][:4000]

    async def live(self, control, seconds, last):
        process = self.server.process.pid
        await self.work(control, seconds * 0.2)
        before = await self.rest()
        self.clients.start()
        async with Watch(process) as watch:
            await self.work(control, seconds * 0.8 - LAST_SECONDS)
        self.growths.append((watch.growth(), watch.points[-1][0] - watch.points[0][0], before.resident))
        after = await self.rest(before.descriptors)
        assert after.threads <= before.threads + POOL
        if not last:
            self.clients.start()
            await asyncio.sleep(LAST_SECONDS)

    async def work(self, control, seconds):
        stopping = asyncio.Event()
        following = asyncio.create_task(self.versions.follow(f"unix:{self.socket}", control, stopping))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.clients.check()
            assert not following.done(), following.result()
            await asyncio.sleep(0.1)
        stopping.set()
        await following

    async def rest(self, descriptors=None):
        """What the server holds when its clients have gone, and nothing is left of them."""
        await self.clients.stop()
        try:
            await until(lambda: asyncio.to_thread(self.rests, descriptors))
        except TimeoutError:
            raise AssertionError(f"It does not come to rest: {self.seen}, {descriptors} before.") from None
        return held_by(self.server.process.pid)

    def rests(self, descriptors):
        with urllib.request.urlopen(f"{self.server.http_url}/metrics", timeout=60) as page:
            lines = page.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line.startswith(NOT_AT_REST))
        assert len(values) == len(NOT_AT_REST)
        self.seen = values, open_files(self.server.process.pid)
        few = descriptors is None or self.seen[1].total() <= descriptors
        return few and not any(float(value) for value in values.values())

    def in_a_gap(self, one):
        return any(begin <= one.ended and one.sent <= end for begin, end in self.gaps)

    def report(self):
        lines = [
            f"\n{LIVES} servers in {SECONDS:g} s, {self.versions.newest} versions of the model:",
            self.tally.report(),
        ]
        for number, (growth, seconds, begin) in enumerate(self.growths, 1):
            lines.append(f"  server {number}: {begin / MIB:.0f} MiB, grew by {growth / MIB:+.2f} in {seconds:.0f} s")
        return "\n".join(lines)


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("transport", ["h2"], indirect=True)
async def test_servers_under_all_kinds_of_clients_leak_nothing_and_keep_to_the_contract(tmp_path):
    soak = Soak(tmp_path)
    await soak.run(SECONDS)
    print(soak.report())
    assert soak.tally.unaccounted() == {}
    assert soak.tally.breaches == []
    assert [one for one in soak.tally.refused if not soak.in_a_gap(one)] == []
    assert all(growth <= FREE_GROWTH + GROWTH_A_MINUTE * seconds / 60 for growth, seconds, _ in soak.growths)
