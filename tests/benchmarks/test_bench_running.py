"""Servers of a benchmark as processes: right before they are measured, gone afterwards with all that they started."""

import os
import signal
import sys
from dataclasses import dataclass

import pytest

from harness import machine, running
from harness.network import WrongAnswer
from harness.running import RunningServer
from harness.servers import Kind, Server, Unavailable

ONE_ZERO = """
import http.server, subprocess, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "{size}")
        self.end_headers()
        self.wfile.write(bytes({size}))
{before}
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


@dataclass(frozen=True)
class Program(Server):
    """A server that is a few lines of Python."""

    code: str = ""

    def command(self, model, repository, ports):
        return [sys.executable, "-c", self.code, str(ports[0])]


def program(size=4, before=""):
    code = ONE_ZERO.format(size=size, before=before)
    return Program("program", "Program", Kind.FLOOR, "none", "HTTP", "/", code=code)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "MODELS", tmp_path / "models")
    monkeypatch.setattr(running, "LOGS", tmp_path / "logs")


@pytest.fixture(autouse=True)
def orphans():
    machine.adopt_orphans()
    before = machine.process_tree(os.getpid())
    yield
    assert machine.process_tree(os.getpid()) <= before, "something that was started is left"
    machine.adopt_orphans(False)


@pytest.fixture
def core():
    return [min(os.sched_getaffinity(0))]


def test_a_server_is_on_its_cores_and_alone_on_its_port_and_then_gone(core):
    with RunningServer(program(), core) as server:
        assert server.start_seconds > 0
        assert server.cpu_seconds() > 0
        assert server.memory().processes == 1
        assert server.memory().resident > 1
        assert server.ended == ""
        port = server.port
        assert machine.listeners(port)
    assert not machine.listeners(port)
    assert server.stop_seconds < running._GRACE


def test_what_a_server_leaves_in_a_session_of_its_own_is_ended_too(core):
    leave = "subprocess.Popen(['setsid', '--fork', 'sleep', '600']).wait()"
    with RunningServer(program(before=leave), core):
        pass  # the fixture looks whether anything is left


def test_a_wrong_answer_is_an_error_and_not_a_fast_server(core):
    with pytest.raises(WrongAnswer), RunningServer(program(size=8), core):
        pass


def test_a_server_that_does_not_start_is_left_out_with_its_reason(core):
    with pytest.raises(Unavailable, match="it ended with 3"), RunningServer(program(before="sys.exit(3)"), core):
        pass


def test_a_server_that_dies_is_noticed(core):
    with RunningServer(program(), core) as server:
        os.kill(server._process.pid, 11)
        server._process.wait()
        assert server.ended == "ended by SIGSEGV"


STUBBORN = "import signal; signal.signal(signal.SIGTERM, lambda *_: open('asked_to_stop', 'w').close())"


def test_who_is_told_to_stop_while_a_server_ends_still_ends_it(core, monkeypatch):
    monkeypatch.setattr(running, "_GRACE", 0.3)
    told = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(machine.process_tree(os.getpid())))
    try:
        with RunningServer(program(before=STUBBORN), core) as server:
            tree, stop = machine.process_tree, server._process.pid

            def tree_and_signal(root):
                monkeypatch.setattr(machine, "process_tree", tree)
                os.kill(os.getpid(), signal.SIGTERM)  # when it has begun to end the server
                return tree(root)

            monkeypatch.setattr(machine, "process_tree", tree_and_signal)
    finally:
        signal.signal(signal.SIGTERM, before)
    (left,) = told
    assert stop not in left, "the signal was heard when the server had ended"
