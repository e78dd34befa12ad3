"""`AsyncClient` that balances by itself over three real servers, one call a request and gathered."""

import asyncio
import signal

import numpy as np

from conveyor_server.client import AsyncClient, CallError
from support.fleet import IMAGES
from support.onnx_models import predict_classifier


class Callers:
    """Tasks that ask one after another until they are told to stop, and check each answer."""

    def __init__(self, name, client, number):
        self.name = name
        self.answered = 0
        self.errors = []
        self._client = client
        self._stopping = False
        self._one_ended = asyncio.Condition()
        self._tasks = [asyncio.create_task(self._ask(first)) for first in range(number)]

    @property
    def ended(self):
        return self.answered + len(self.errors)

    async def progress(self, calls):
        aim = self.ended + calls
        async with asyncio.timeout(60), self._one_ended:
            await self._one_ended.wait_for(lambda: self.ended >= aim)

    async def stop(self):
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._client.close()

    async def _ask(self, first):
        images = IMAGES[first % len(IMAGES) :][:2]
        while not self._stopping:
            try:
                outputs = await self._client.predict("digits", images, outputs=["probabilities"])
            except CallError as error:
                self.errors.append(str(error))
            else:
                expected = predict_classifier(images, seed=int(outputs.version))
                np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
                self.answered += 1
            async with self._one_ended:
                self._one_ended.notify_all()
            await asyncio.sleep(0.01)


async def test_restarts_and_kills_lose_nothing(fleet):
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port, _ in fleet.addresses)
    both = [
        Callers("one call a request", AsyncClient(target, timeout=30), 8),
        Callers("gathered", AsyncClient(target, timeout=30, gather_rows=16, connections=2), 8),
    ]
    for number, how in [(0, signal.SIGTERM), (1, signal.SIGTERM), (2, signal.SIGTERM), (0, signal.SIGKILL)]:
        fleet.servers[number].signal(how)
        await asyncio.to_thread(fleet.servers[number].exit_code)
        await asyncio.to_thread(fleet.restart, number)
        for callers in both:
            await callers.progress(50)
    for callers in both:
        await callers.stop()
        print(f"Restarts and a kill, {callers.name}: {callers.answered} answered, {len(callers.errors)} failed")
        assert callers.errors == []
