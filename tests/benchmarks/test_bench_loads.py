"""The load generators: what they count, and what they refuse to count."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import network
from harness.h2load import Shot, Void
from harness.http2 import literal, number, status_of
from harness.machine import free_ports, listeners
from harness.measuring import calmest
from harness.open_loop import NO_ANSWER, NOT_SENT, Target, closed_loop, open_loop
from harness.rows import ROWS
from harness.servers import SERVERS

REPORT = """finished in 1.23s, 812.90 req/s, 2.61MB/s
requests: 1000 total, 1000 started, 1000 done, {good} succeeded, {bad} failed, 0 errored, 0 timeout
status codes: {good} 2xx, 0 3xx, 0 4xx, {bad} 5xx
traffic: 100KB (102400) total, 10KB (10240) headers (space savings 95.00%), 52.7KB ({data}) data
"""
SHOT = Shot("http://127.0.0.1:1/", True, b"", 54, 1, 1, [0])


def test_right_answers_have_a_rate():
    assert SHOT.rate(REPORT.format(good=1000, bad=0, data=54_000), 1000) == 812.9


@pytest.mark.parametrize(
    "report",
    [
        REPORT.format(good=999, bad=1, data=53_946),
        REPORT.format(good=1000, bad=0, data=53_946),  # one error of gRPC: status 200 and no body
        REPORT.format(good=1000, bad=0, data=54_001),
        "nothing",
    ],
)
def test_a_wrong_answer_voids_the_measurement(report):
    with pytest.raises(Void):
        SHOT.rate(report, 1000)


def test_the_calmest_measurement_counts():
    noisy, calm = {"stolen": 0.1, "others": 0.2}, {"stolen": 0.0, "others": 0.25}
    assert calmest([noisy, calm]) is calm


@given(st.integers(0, 2**28), st.integers(1, 8))
def test_integers_of_hpack(value, bits):
    limit = (1 << bits) - 1
    encoded = bytearray([min(value, limit)])
    if value >= limit:
        rest = value - limit
        while rest >= 128:
            encoded.append(rest % 128 + 128)
            rest //= 128
        encoded.append(rest)
    assert number(bytes(encoded), 0, bits) == (value, len(encoded))


@given(st.integers(0, 16), st.text(max_size=40).map(lambda text: text.encode()[:100]))
def test_the_status_is_found_among_other_trailers(status, message):
    before = b"\0\x0cgrpc-message" + bytes([len(message)]) + message
    assert status_of(before + literal("grpc-status", str(status)), 0) == status


@pytest.mark.parametrize(("huffman", "status"), [("07", 0), ("0f", 1), ("6b", 4), ("7b", 8), ("0b5f", 14)])
def test_a_status_in_huffman_code(huffman, status):
    value = bytes.fromhex(huffman)
    name = bytes.fromhex("9acac8b21234da8f")
    assert status_of(b"\0" + bytes([0x80 | len(name)]) + name + bytes([0x80 | len(value)]) + value, 0) == status


class Moody(grpc.GenericRpcHandler):
    """Answers, refuses, or (None) keeps the client waiting, in turn."""

    def __init__(self, outcomes):
        self.asked = count()
        self.outcomes = outcomes
        self.over = threading.Event()

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        outcome = self.outcomes[next(self.asked) % len(self.outcomes)]
        if outcome is None:
            self.over.wait(60)
        elif outcome is not grpc.StatusCode.OK:
            context.abort(outcome, "not now")
        return b"x" * 20


@pytest.fixture
def moody():
    servers = []

    def start(*outcomes):
        server = grpc.server(ThreadPoolExecutor(2))
        handler = Moody(outcomes)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append((server, handler))
        return port, handler

    yield start
    for server, handler in servers:
        handler.over.set()
        server.stop(None).wait()


def target(port, timeout=5.0):
    return Target("127.0.0.1", port, network.message(network.images(1)), timeout, 2)


def test_every_answer_is_counted_with_its_code(moody):
    port, handler = moody(grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    outcomes = closed_loop(target(port), 4, 0.3)
    status = np.frombuffer(outcomes.status, np.int8)
    asked = next(handler.asked)
    assert len(status) == asked
    assert {0: asked - asked // 2, 14: asked // 2} == {code: int((status == code).sum()) for code in (0, 14)}
    assert len(outcomes.latency) == asked
    assert min(outcomes.latency) > 0


def test_a_rate_is_offered_whatever_the_server_does(moody):
    port, _ = moody(None)
    outcomes = open_loop(target(port, timeout=0.05), 400, 0.5, seed=3)
    assert 120 < len(outcomes.status) < 280
    assert len(outcomes.lag) == len(outcomes.status)
    assert set(outcomes.status) <= {NO_ANSWER, NOT_SENT, 4}
    assert NO_ANSWER in outcomes.status


def test_free_ports_are_free_and_different():
    ports = free_ports(3)
    assert len(set(ports)) == 3
    assert not any(listeners(port) for port in ports)


def test_connections_carry_what_is_in_flight():
    for row in ROWS:
        for server in filter(row.applies_to, SERVERS):
            connections, each = row.connections(server)
            assert connections * each * max(1, row.stream) == row.in_flight


@pytest.mark.parametrize("datatype", ["FP32", "UINT8"])
def test_right_answers_pass_and_wrong_ones_do_not(datatype):
    pixels = network.images(3, datatype)
    answers = network._reference(datatype, network.TUTORIAL).run(None, {"image": pixels})[0].ravel()
    network.check(pixels, answers)
    assert len(set(answers.tolist())) == 3, "different images have different answers"
    with pytest.raises(network.WrongAnswer):
        network.check(pixels, answers[:2])
    with pytest.raises(network.WrongAnswer):
        network.check(pixels, answers[::-1])
