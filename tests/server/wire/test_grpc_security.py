import logging
from collections import namedtuple
from math import inf

import pytest

from conveyor_server.wire.access import Access
from conveyor_server.wire.connection_limits import ConnectionLimits
from conveyor_server.wire.grpc_security import Routes, connection_options, keep_headers_out_of_the_log
from conveyor_server.wire.tokens import Scope, make_token

Call = namedtuple("Call", "method invocation_metadata")
OPEN, LOCKED = object(), object()
RPCS = {"/s/Open": (OPEN, None), "/s/Locked": (LOCKED, Scope.READ)}


@pytest.fixture
def token(tmp_path):
    made, line = make_token("reader", [Scope.READ])
    (tmp_path / "tokens").write_text(line)
    return made


def test_without_tokens_every_call_finds_its_handler():
    routes = Routes(RPCS, None)
    assert routes.service(Call("/s/Open", ())) is OPEN
    assert routes.service(Call("/s/Locked", ())) is LOCKED
    assert routes.service(Call("/s/Nothing", ())) is None


def test_with_tokens_a_call_that_may_not_be_made_finds_one_that_reads_no_body(tmp_path, token):
    routes = Routes(RPCS, Access(tmp_path / "tokens"))
    good = ("authorization", f"Bearer {token}")
    assert routes.service(Call("/s/Open", ())) is OPEN
    assert routes.service(Call("/s/Locked", (("x", "y"), good))) is LOCKED
    assert routes.service(Call("/s/Nothing", ())) is None
    for metadata in (
        (),
        (("authorization", "Bearer x"),),
        (("authorization", b"\xff"),),
        (("authorization", ""), good),
    ):
        refusing = routes.service(Call("/s/Locked", metadata))
        assert refusing is not LOCKED
        assert refusing.request_streaming
        assert refusing.response_streaming


def test_limits_are_numbers_that_the_core_takes():
    options = dict(connection_options(ConnectionLimits(age_seconds=0.5, idle_seconds=1e12)))
    assert options["grpc.max_connection_age_ms"] == 500
    assert options["grpc.max_connection_age_grace_ms"] == options["grpc.max_connection_idle_ms"] == 2**31 - 1
    assert all(isinstance(value, int) and 0 < value < 2**31 for value in options.values())
    assert connection_options(ConnectionLimits(age_seconds=inf)) == connection_options(ConnectionLimits())


def test_headers_that_are_no_text_are_not_logged(caplog):
    logger = logging.getLogger("grpc._cython.cygrpc")
    keep_headers_out_of_the_log()
    keep_headers_out_of_the_log()
    logger.error("Invalid encoding on %s", b"Bearer secret\xff")
    logger.error("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
