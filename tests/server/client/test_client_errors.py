import pickle

import grpc
import pytest

from conveyor_server.client import CallError, InvalidRequest, ServerError, Unavailable, Unreachable
from conveyor_server.client.errors import ERROR_OF, error_of


def test_every_status_but_ok_has_an_error():
    assert set(ERROR_OF) == {code.name for code in grpc.StatusCode} - {"OK"}


def test_the_text_says_code_reason_server_attempts_and_what_to_do():
    error = error_of("INTERNAL", "it broke", "host:1")
    assert isinstance(error, ServerError)
    assert str(error) == "INTERNAL: it broke (server host:1). The server's log says more."
    error.attempts = 3
    assert "(server host:1, 3 attempts)" in str(error)
    assert str(InvalidRequest("INVALID_ARGUMENT", "wrong")) == "INVALID_ARGUMENT: wrong"


def test_errors_are_those_that_python_has_for_it():
    assert issubclass(ERROR_OF["INVALID_ARGUMENT"], ValueError)
    assert issubclass(ERROR_OF["DEADLINE_EXCEEDED"], TimeoutError)
    assert issubclass(ERROR_OF["UNAVAILABLE"], ConnectionError)
    assert all(issubclass(kind, CallError) for kind in ERROR_OF.values())


@pytest.mark.parametrize("kind", [*set(ERROR_OF.values()), Unreachable])
def test_errors_travel_between_processes_and_callers(kind):
    error = kind("UNAVAILABLE", "full", "host:1", 4, 0.5)
    for other in (pickle.loads(pickle.dumps(error)), error.copy()):
        assert type(other) is kind
        assert other is not error
        assert (str(other), other.pushback) == (str(error), 0.5)


def test_no_connection_is_told_from_a_refusal():
    text = "failed to connect to all addresses; last error: UNKNOWN: Connection refused"
    assert type(error_of("UNAVAILABLE", text, "host:1")) is Unreachable
    assert type(error_of("UNAVAILABLE", "Exceeds maximum queue size", "host:1")) is Unavailable
