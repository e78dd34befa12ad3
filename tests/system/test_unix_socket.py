"""A socket in the file system beside the port, for clients on the same machine."""

import os
import signal
import socket
import subprocess
import sys

import pytest
import tritonclient.grpc as triton

from support.onnx_models import add_sub, save
from support.processes import ServerProcess


@pytest.fixture
def repository(tmp_path):
    save(add_sub(), tmp_path / "models", "simple")
    return tmp_path / "models"


def ready(url):
    with triton.InferenceServerClient(url) as client:
        return client.is_model_ready("simple")


def test_clients_reach_the_server_by_both_ways_and_the_file_goes_with_it(repository, tmp_path):
    path = tmp_path / "conveyor.sock"
    with ServerProcess(repository, "--unix-socket", str(path)) as server:
        assert ready(f"unix:{path}")
        assert ready(server.grpc_url)
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
    assert not path.exists()


def test_what_a_killed_server_left_behind_is_replaced(repository, tmp_path):
    path = tmp_path / "conveyor.sock"
    with ServerProcess(repository, "--unix-socket", str(path)) as server:
        server.signal(signal.SIGKILL)
        server.exit_code()
    assert path.exists()
    with ServerProcess(repository, "--unix-socket", str(path)):
        assert ready(f"unix:{path}")


def test_a_path_that_is_taken_is_said_and_left_alone(repository, tmp_path):
    file, taken = tmp_path / "file", tmp_path / "taken"
    file.write_text("mine")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(taken))
        other.listen()
        for path, reason in [(file, "a file is there that is no socket"), (taken, "another server does")]:
            done = subprocess.run(
                [sys.executable, "-m", "conveyor_server", "--repository", str(repository), "--unix-socket", str(path)],
                env={**os.environ, "CONVEYOR_GRPC_PORT": "0", "CONVEYOR_HTTP_PORT": "0"},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 1
            assert reason in done.stderr
    assert file.read_text() == "mine"
