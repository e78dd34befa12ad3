"""Real server processes on loopback, with real signals."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 60


class ServerProcess:
    """`conveyor-server` on free ports, ready when the `with` block begins, and gone when it ends.

    Args:
        repository: its models.
        flags: more command-line flags.
        ready: the log line (a pattern) to wait for.
        environment: more environment variables.
        ports: gRPC and HTTP ports; 0 takes a free one.
    """

    def __init__(
        self,
        repository: Path,
        *flags: str,
        ready: str = r"Ready: ",
        environment: dict[str, str] | None = None,
        ports: tuple[int, int] = (0, 0),
    ) -> None:
        command = [sys.executable, "-m", "conveyor_server", "--repository", str(repository)]
        command += ["--grpc-port", str(ports[0]), "--http-port", str(ports[1]), *flags]
        self._ready = ready
        self.log: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",  # grpc's own messages quote what clients sent
            env={**os.environ, "CONVEYOR_LAME_DUCK_SECONDS": "0", **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        try:
            listens = self.wait_for(r"gRPC on (\S+:\d+), HTTP on (\S+:\d+)")
            self.grpc_url, self.http_url = listens[1], f"http://{listens[2]}"
            self.wait_for(self._ready)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The next line of the log that has the pattern."""
        while (line := self._lines.get(timeout=START_SECONDS)) is not None:
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"The server ended without saying {pattern!r}:\n" + "\n".join(self.log))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self, seconds: float = 60) -> int:
        """Waits for the end."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip())
            self._lines.put(line)
        self._lines.put(None)

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
