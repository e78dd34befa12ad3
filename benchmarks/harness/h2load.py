"""The load generator h2load: a prepared request again and again, over HTTP/2 or HTTP/1.1."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.asking import RAW
from harness.medians import quantile

_TIMEOUT = 120


class Void(Exception):
    """A measurement says nothing, because not every answer was right."""


@dataclass(frozen=True)
class Shot:
    """What h2load sends, and where.

    Args:
        url: with the path.
        grpc: HTTP/2 and gRPC's headers, or HTTP/1.1.
        body: of each request.
        answer_bytes: the size of a right answer's body.
        connections: how many.
        in_flight: requests in flight on each.
        cores: those that h2load may use.
    """

    url: str
    grpc: bool
    body: bytes
    answer_bytes: int
    connections: int
    in_flight: int
    cores: Sequence[int]

    def fire(self, requests: int) -> dict[str, float]:
        """Sends so many requests.

        Returns:
            requests, requests_per_second, p50_ms, p99_ms.

        Raises:
            Void: an answer was missing, had another status than 200, or another size than a right one. A gRPC error has
                status 200 and no body, which the size tells.
        """
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # the log of a fast server has many lines
            body, log = Path(folder, "body"), Path(folder, "log")
            body.write_bytes(self.body)
            command = [_program(), f"--requests={requests}", f"--clients={self.connections}"]
            command += [f"--max-concurrent-streams={self.in_flight}", f"--data={body}", f"--log-file={log}"]
            if self.grpc:
                command += ["--header=content-type: application/grpc", "--header=te: trailers"]
            else:
                command += ["--h1", f"--header=content-type: {RAW}"]
            try:
                done = subprocess.run(
                    ["taskset", "--cpu-list", ",".join(map(str, self.cores)), *command, self.url],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=_TIMEOUT,
                )
            except subprocess.TimeoutExpired as error:
                raise Void(f"{requests:,} requests were not answered within {_TIMEOUT} s") from error
            milliseconds = sorted(int(line.split()[2]) / 1e3 for line in log.read_text().splitlines())
        return {
            "requests": requests,
            "requests_per_second": self.rate(done.stdout, requests),
            "p50_ms": quantile(milliseconds, 0.5),
            "p99_ms": quantile(milliseconds, 0.99),
        }

    def rate(self, report: str, requests: int) -> float:
        """The rate in h2load's report of so many requests.

        Raises:
            Void: not every answer was right.
        """
        rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", report)
        succeeded = re.search(r"status codes: (\d+) 2xx", report)
        received = re.search(r"\((\d+)\) data", report)
        if not rate or not succeeded or not received:
            raise Void(f"h2load said: {report[-500:]}")
        if (good := int(succeeded[1])) != requests:
            raise Void(f"{requests - good:,} of {requests:,} requests failed")
        if (size := int(received[1])) != (expected := requests * self.answer_bytes):
            raise Void(f"answers of {size:,} bytes came for {requests:,} requests, right ones have {expected:,}")
        return float(rate[1])


def _program() -> str:
    if program := shutil.which("h2load"):
        return program
    raise SystemExit("h2load is missing: apt-get install nghttp2-client, or run: make bench")
