"""Runs an image's own command as an engine would, and checks it from outside. Used by image_test.sh; needs root.

The server is the first process of its namespace, on a read-only root file system, with the image's user, environment
and nothing else.
"""

import json
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conveyor_server.client import Client
from support.onnx_models import classifier, predict_classifier, save

SECONDS = 120
MOUNTS = """
set -e
mount --bind "$0" "$0"
mount --bind "$1" "$0/models"
mount -t proc proc "$0/proc"
mount -t tmpfs tmpfs "$0/tmp"
mount --rbind /dev "$0/dev"
mount -o remount,bind,ro "$0"
mount -o remount,bind,ro "$0/models"
shift
"""


class Container:
    """A process with an image's configuration.

    Args:
        root: the image's files.
        config: Docker's configuration of it.
        environment: more variables, as an engine's --env.
    """

    def __init__(self, root: Path, config: dict, environment: dict[str, str]) -> None:
        user = config["User"]
        assert all(part.isdigit() and int(part) for part in user.split(":")), f"user {user!r} is not a number or root"
        variables = [*config["Env"], *(f"{name}={value}" for name, value in environment.items())]
        self._root = root
        self._inside = ["chroot", f"--userspec={user}", str(root), "/usr/bin/env", "-i"]
        self._inside += [f"--chdir={config['WorkingDir'] or '/'}", *variables]
        self._config = config
        self._user = user

    def start(self, models: Path) -> None:
        """Runs the entry point."""
        script = MOUNTS + "exec " + shlex.join([*self._inside, *self._config["Entrypoint"]])
        isolate = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
        self.process = subprocess.Popen([*isolate, "sh", "-c", script, str(self._root), str(models)])

    @property
    def first(self) -> int:
        """The server's process, seen from outside."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def healthy(self) -> bool:
        """What the image's own health check says."""
        kind, *command = self._config["Healthcheck"]["Test"]
        assert kind == "CMD", "a shell would be needed"
        return self.run(*command) == 0

    def run(self, *command: str) -> int:
        """The exit code of a command inside."""
        return subprocess.run([*self._inside, *command], capture_output=True, timeout=30, check=False).returncode

    def check_isolation(self) -> None:
        """The user is none of the system's, and the root file system is read-only."""
        status = Path(f"/proc/{self.first}/status").read_text()
        assert f"Uid:\t{self._user.split(':')[0]}\t" in status, status
        points = Path(f"/proc/{self.first}/mountinfo").read_text().splitlines()
        options = [line.split()[5] for line in points if line.split()[4] == "/"]
        assert options, points
        assert all(option.split(",")[0] == "ro" for option in options), options


def main() -> None:
    """Usage: image_check.py ROOT CONFIG, where CONFIG is what `buildah inspect` prints."""
    root, config = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())["Docker"]["config"]
    assert config["Healthcheck"]["Test"], "the image has no health check"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    grpc_port, http_port = free_ports()
    ports = {"CONVEYOR_GRPC_PORT": str(grpc_port), "CONVEYOR_HTTP_PORT": str(http_port)}
    container = Container(root, config, ports)
    for name in ("pip", "torch", "setuptools"):
        assert container.run("/opt/conveyor/bin/python", "-c", f"import {name}") == 1, f"{name} is in the image"
    for name in ("pip", "pip3", "gcc", "cc", "g++"):
        assert container.run("/bin/sh", "-c", f"command -v {name}"), f"{name} is in the image"
    with tempfile.TemporaryDirectory() as models:
        Path(models).chmod(0o755)
        save(classifier(), Path(models), "digits")
        started = time.monotonic()
        container.start(Path(models))
        try:
            while not container.healthy():
                assert container.process.poll() is None, "the server has ended"
                assert time.monotonic() < started + SECONDS, "the server is not healthy"
                time.sleep(0.2)
            print(f"Healthy after {time.monotonic() - started:.1f} s")
            container.check_isolation()
            images = np.random.default_rng(0).random((200, 8, 8, 1), np.float32)
            with Client(f"127.0.0.1:{grpc_port}") as client:
                answer = client.predict("digits", images)
            np.testing.assert_allclose(answer, predict_classifier(images), atol=1e-5)
            print("Predicted 200 images from outside")
            stopped = time.monotonic()
            subprocess.run(["kill", f"-{signal.SIGTERM.value}", str(container.first)], check=True)
            code = container.process.wait(SECONDS)
            assert code == 0, f"exit code {code} after SIGTERM"
            print(f"Exit code 0, {time.monotonic() - stopped:.1f} s after SIGTERM")
        finally:
            container.process.kill()
            container.process.wait()


def free_ports() -> list[int]:
    """Two ports that are free now."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], other.getsockname()[1]]


if __name__ == "__main__":
    main()
