import asyncio
import os
import resource
import socket

import pytest

from conveyor_server.wire.listening import listen_at_path, listen_on_network
from conveyor_server.workers import accepting
from conveyor_server.workers.accepting import Acceptor


class PuppetWorker:
    """Keeps what it is handed."""

    def __init__(self):
        self.handed = asyncio.Queue()

    def hand(self, descriptor):
        self.handed.put_nowait(descriptor)


@pytest.fixture
async def scene(tmp_path):
    class Scene:
        worker = None
        path = str(tmp_path / "socket")

    sockets = [*listen_on_network("127.0.0.1", 0), listen_at_path(Scene.path)]
    Scene.address = sockets[0].getsockname()
    Scene.acceptor = Acceptor(sockets, lambda: Scene.worker)
    yield Scene
    Scene.acceptor.close()


async def test_connections_wait_until_somebody_can_take_them(scene):
    with socket.create_connection(scene.address) as client, socket.socket(socket.AF_UNIX) as local:
        local.connect(scene.path)
        scene.acceptor.resume()  # there is nobody yet
        scene.worker = worker = PuppetWorker()
        scene.acceptor.resume()
        for _ in range(2):
            with socket.socket(fileno=await worker.handed.get()) as handed:
                handed.sendall(b"hello")
        assert client.recv(5) == local.recv(5) == b"hello"
        scene.worker = None
        with socket.create_connection(scene.address) as late:
            await asyncio.sleep(0)
            scene.worker = worker
            scene.acceptor.resume()
            with socket.socket(fileno=await worker.handed.get()) as handed:
                assert handed.getpeername() == late.getsockname()


async def test_after_the_close_nobody_listens(scene):
    scene.acceptor.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(scene.address)
    scene.acceptor.close()
    with pytest.raises(FileNotFoundError), socket.socket(socket.AF_UNIX) as local:
        local.connect(scene.path)


async def test_without_place_for_a_file_it_goes_on_later(scene, monkeypatch):
    said = asyncio.Event()
    monkeypatch.setattr(accepting.log, "error", lambda *_: said.set())
    monkeypatch.setattr(accepting, "_PAUSE_SECONDS", 0.01)
    scene.worker = worker = PuppetWorker()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_connection(scene.address):
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
        try:
            scene.acceptor.resume()
            await said.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(await worker.handed.get())
