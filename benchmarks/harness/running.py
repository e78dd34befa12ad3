"""A server process of a benchmark: pinned to its cores, on free ports, right in its answers, and gone at the end."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from harness import machine, network
from harness.asking import NoAnswer, ask_one_image
from harness.servers import Server, Unavailable

WORK = Path(".benchmarks")
MODELS = WORK / "models"
LOGS = WORK / "logs"
_PATIENCE = 120.0
_GRACE = 12.0


class RunningServer:
    """Answers correctly when the `with` block begins, and has ended when that ends.

    Args:
        server: what to start.
        cores: those that it and its children may use.
        repository: a folder of models, if not one of the benchmarks'.
        ask: asks it what it must be able to answer, and raises NoAnswer as long as it cannot; one image, if not given.
        size: of the network.

    Raises:
        Unavailable: it did not start, or this build cannot do what the row is about.
        WrongAnswer: it answers, but not what ONNX Runtime does.
    """

    def __init__(
        self,
        server: Server,
        cores: Sequence[int],
        repository: Path | None = None,
        ask: Callable[[Server, int], object] | None = None,
        *,
        size: str = network.TUTORIAL,
    ) -> None:
        self.server = server
        self.cores = cores
        own = MODELS / size
        self._model = network.write_repository(own, size)
        self._repository = (repository or own).resolve()
        self._ask = ask or partial(ask_one_image, size=size)
        self.start_seconds = 0.0
        self.stop_seconds = 0.0

    def __enter__(self) -> Self:
        self.port, *spare = ports = machine.free_ports(3)
        self.http_port = spare[0]
        if taken := [port for port in ports if machine.listeners(port)]:
            raise Unavailable(f"somebody took port {taken[0]} meanwhile: another server would be measured")
        command = self.server.command(self._model, self._repository, ports)
        LOGS.mkdir(parents=True, exist_ok=True)
        self._scratch = tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True)
        self._bystanders = machine.process_tree(os.getpid())
        self.log = LOGS / f"{self.server.name}.log"
        begin = time.monotonic()
        with machine.uninterrupted(), self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["taskset", "--cpu-list", ",".join(map(str, self.cores)), *command],
                cwd=self._scratch.name,
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", **self.server.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait(begin)
            self._inspect()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def cpu_seconds(self) -> float:
        return machine.cpu_seconds(self._process.pid)

    def memory(self) -> machine.Memory:
        return machine.memory(self._process.pid)

    @property
    def ended(self) -> str:
        """How the process ended by itself, or nothing."""
        code = self._process.poll()
        if code is None:
            return ""
        return f"ended with {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"

    def _wait(self, begin: float) -> None:
        """Until the first answer that it must be able to give."""
        while True:
            try:
                self._ask(self.server, self.port)
            except NoAnswer as error:
                if self.ended:
                    raise Unavailable(f"it {self.ended}; see {self.log}") from error
                if time.monotonic() - begin > _PATIENCE:
                    raise Unavailable(f"no answer within {_PATIENCE:g} s, but {error}; see {self.log}") from error
                time.sleep(0.01)
            else:
                self.start_seconds = time.monotonic() - begin
                return

    def _inspect(self) -> None:
        if not machine.listens(self._process.pid, self.port):
            raise Unavailable(f"what listens on port {self.port} is not this server")
        for process in machine.process_tree(self._process.pid):
            try:
                allowed = os.sched_getaffinity(process)
            except ProcessLookupError:
                continue
            if not allowed <= set(self.cores):
                raise Unavailable(f"one of its processes has left its cores, and may run on {sorted(allowed)}")

    def _end(self) -> None:
        with machine.uninterrupted():
            self.stop_seconds = machine.end_tree(self._process.pid, self._bystanders, _GRACE)
            self._process.poll()
            self._scratch.cleanup()
