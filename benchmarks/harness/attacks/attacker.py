"""Runs one attack, in one thread and without pause: `python -m harness.attacks.attacker NAME PORT`.

On loopback only, for some seconds, with a bounded number of connections. Reports what became of it as JSON.
"""

import argparse
import base64
import heapq
import json
import resource
import selectors
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass

from harness.attacks import frames as f
from harness.attacks.attack import Attack, Prey, Reads, Script
from harness.attacks.catalogue import ATTACKS

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_OPENED_AT_ONCE = 50
"""Connections, before those that are open have their turn."""
_MOST_A_SECOND = 5000
_DRIBBLE_SECONDS = 0.5


@dataclass
class Outcome:
    """What became of an attack."""

    opened: int = 0
    """Connections."""
    closed: int = 0
    """Those of them that the server closed."""
    failed: int = 0
    """Attempts to connect that came to nothing."""
    most: int = 0
    """Open at the same time."""
    sent: int = 0
    """Bytes."""
    received: int = 0
    goodbyes: int = 0
    """GOAWAY frames that say that something was wrong."""


class _Client:
    """One connection."""

    def __init__(self, number: int, connection: socket.socket, script: Script) -> None:
        self.number = number
        self.socket = connection
        self.script: Script | None = script
        self.out: memoryview = memoryview(b"")
        self.pending = b""
        self.answers = b""
        self.interest = 0


class Attacker:
    """Runs an attack until it is told to stop.

    Args:
        attack: which.
        port: of the server, on loopback.
        prey: what is known of it.
        connections: how many at the same time.
    """

    def __init__(self, attack: Attack, port: int, prey: Prey, connections: int) -> None:
        self.outcome = Outcome()
        self._attack = attack
        self._address = ("127.0.0.1", port)
        self._prey = prey
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, _Client | None]] = []
        """When a client goes on, or, where there is none, another one comes."""
        self._entries = 0
        self._to_open = connections
        self._open = 0
        self._stopping = False

    def stop(self) -> None:
        """Ends `run`."""
        self._stopping = True

    def run(self) -> Outcome:
        end = time.monotonic() + self._prey.seconds
        began = time.monotonic()
        while not self._stopping and (now := time.monotonic()) < end:
            self._wake(now)
            allowed = int((now - began + 0.1) * _MOST_A_SECOND) - self.outcome.opened - self.outcome.failed
            for _ in range(min(self._to_open, _OPENED_AT_ONCE, allowed)):
                self._connect()
            pause = 0.0 if self._to_open and allowed > 0 else 0.02
            if self._timers:
                pause = max(0.0, min(pause, self._timers[0][0] - time.monotonic()))
            for key, events in self._selector.select(pause):
                client = key.data
                if events & _READ:
                    self._read(client)
                if events & _WRITE and client.interest:
                    self._write(client)
        return self.outcome

    def _wake(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, client = heapq.heappop(self._timers)
            if client is None:
                self._to_open += 1
            elif client.socket.fileno() >= 0:
                if client.script is not None:
                    self._write(client)
                if self._attack.reads is Reads.DRIBBLE and client.socket.fileno() >= 0:
                    self._dribble(client, now)

    def _at(self, when: float, client: _Client | None) -> None:
        self._entries += 1
        heapq.heappush(self._timers, (when, self._entries, client))

    def _connect(self) -> None:
        self._to_open -= 1
        connection = socket.socket()
        try:
            connection.connect(self._address)  # on loopback this waits for nobody
        except OSError:
            connection.close()
            self.outcome.failed += 1
            self._at(time.monotonic() + 0.05, None)
            return
        connection.setblocking(False)
        number = self.outcome.opened
        self.outcome.opened += 1
        self._open += 1
        self.outcome.most = max(self.outcome.most, self._open)
        client = _Client(number, connection, self._attack.script(self._prey, number))
        self._want(client, 0 if self._attack.reads is not Reads.ALL else _READ)
        if self._attack.reads is Reads.DRIBBLE:
            self._at(time.monotonic() + _DRIBBLE_SECONDS, client)
        self._write(client)

    def _want(self, client: _Client, interest: int) -> None:
        if client.interest == interest:
            return
        if not client.interest:
            self._selector.register(client.socket, interest, client)
        elif not interest:
            self._selector.unregister(client.socket)
        else:
            self._selector.modify(client.socket, interest, client)
        client.interest = interest

    def _write(self, client: _Client) -> None:
        """Sends as much as the socket takes now, of its script and of answers to pings."""
        reading = _READ if self._attack.reads is Reads.ALL else 0
        try:
            for _ in range(16):
                if not client.out and not self._refill(client):
                    if client.socket.fileno() >= 0:
                        self._want(client, reading)
                    return
                sent = client.socket.send(client.out)
                self.outcome.sent += sent
                client.out = client.out[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._gone(client)
            return
        self._want(client, reading | _WRITE)

    def _refill(self, client: _Client) -> bool:
        """Whether there is more to send now."""
        if client.answers:
            client.out, client.answers = memoryview(client.answers), b""
            return True
        if client.script is None:
            return False
        piece = next(client.script, None)
        if isinstance(piece, bytes):
            client.out = memoryview(piece)
            return True
        if piece is not None:
            self._at(time.monotonic() + piece, client)
        elif self._attack.hangs_up:
            self._gone(client, by_server=False)
        else:
            client.script = None
        return False

    def _read(self, client: _Client) -> None:
        try:
            data = client.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.outcome.received += len(data)
        if not data:
            self._gone(client)
            return
        self._answer(client, data)

    def _answer(self, client: _Client, data: bytes) -> None:
        """Says that it lives, and that it has read the settings."""
        data = client.pending + data if client.pending else data
        position = 0
        while len(data) - position >= 9:
            stop = position + 9 + int.from_bytes(data[position : position + 3], "big")
            if stop > len(data):
                break
            kind, flags = data[position + 3], data[position + 4]
            if kind == f.PING and not flags & f.ACK:
                client.answers += f.frame(f.PING, f.ACK, 0, data[position + 9 : stop])
            elif kind == f.GOAWAY:
                self.outcome.goodbyes += data[position + 13 : position + 17] != bytes(4)
            position = stop
        client.pending = data[position:]
        if client.answers and not client.interest & _WRITE:
            self._want(client, _READ | _WRITE)

    def _dribble(self, client: _Client, now: float) -> None:
        try:
            data = client.socket.recv(1)
        except BlockingIOError:
            data = b"?"
        except OSError:
            data = b""
        if data:
            self.outcome.received += 1
            self._at(now + _DRIBBLE_SECONDS, client)
        else:
            self._gone(client)

    def _gone(self, client: _Client, *, by_server: bool = True) -> None:
        self._want(client, 0)
        client.socket.close()
        self._open -= 1
        self.outcome.closed += by_server
        if self._attack.again is not None:
            self._at(time.monotonic() + self._attack.again, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, help="at the same time")
    parser.add_argument("--inference", type=base64.b64decode, default=b"", help="a good request, in base64")
    parser.add_argument("--largest", type=int, default=2**20, help="bytes that the largest request may have")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attack = ATTACKS[options.attack]
    connections = min(options.connections or attack.connections, hard - 100)
    attacker = Attacker(attack, options.port, Prey(options.inference, options.largest, options.seconds), connections)
    signal.signal(signal.SIGTERM, lambda *_: attacker.stop())
    json.dump(asdict(attacker.run()), sys.stdout)


if __name__ == "__main__":
    main()
