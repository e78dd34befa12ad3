import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.access_log import AccessLog
from conveyor_server.core.errors import ModelNotFound
from conveyor_server.log_setup import HumanFormatter, JsonFormatter, LogFormat, escape, set_up_logging
from conveyor_server.observers import RequestObservers
from conveyor_server.wire.inference import Inference, Wish
from support.puppets import FakeCall, Runs


def record(message, *arguments, error=None, **extra):
    made = logging.getLogger("test").makeRecord("test", logging.WARNING, "f", 1, message, arguments, error, extra=extra)
    return made


def failure():
    try:
        raise ValueError("bad")
    except ValueError:
        return sys.exc_info()


def test_a_json_line_has_time_level_message_and_fields():
    line = JsonFormatter().format(record("%s is ready\nnow", "m", model="m", version=3, request_id="7"))
    assert "\n" not in line
    fields = json.loads(line)
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "warning",
        "logger": "test",
        "message": "m is ready\nnow",
        "model": "m",
        "version": 3,
        "request_id": "7",
    }


def test_a_json_line_has_the_traceback_and_never_fails_on_a_value():
    fields = json.loads(JsonFormatter().format(record("failed", error=failure(), odd=object(), level="mine")))
    assert "ValueError: bad" in fields["exception"]
    assert fields["odd"].startswith("<object")
    assert fields["level"] == "warning"


def test_a_human_line_cannot_be_forged_and_tracebacks_stay_readable():
    text = HumanFormatter().format(record("model %s", "x\n2026 ERROR y\x1b[31m", error=failure()))
    first, *rest = text.splitlines()
    assert first.endswith(r"WARNING model x\n2026 ERROR y\x1b[31m")
    assert rest[0] == "Traceback (most recent call last):"


@given(st.text())
def test_escaped_text_is_one_printable_line(text):
    assert escape(text).isprintable() or escape(text) == ""


@pytest.mark.parametrize("style", LogFormat)
def test_set_up_writes_to_standard_error(style, capsys):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        set_up_logging("info", style)
        logging.getLogger("x").info("hello")
        logging.getLogger("x").debug("not this")
    finally:
        root.handlers[:], root.level = before[0], before[1]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err
    assert "not this" not in captured.err


async def test_the_access_log_says_who_asked_for_what_and_how_it_ended(caplog):
    caplog.set_level("INFO")
    call = FakeCall()
    call.request_id = "i" * 200
    runs = Runs()
    request = Inference(call, RequestObservers([runs, AccessLog()]))
    request.wish = Wish("m" * 200)
    request.fail(ModelNotFound("no"))
    (line,) = caplog.records
    assert (line.method, line.model, line.code, line.rows) == ("ModelInfer", "m" * 100, "NOT_FOUND", 0)
    assert line.request_id == "i" * 100
    assert line.milliseconds >= 0
    assert f"ModelInfer model={'m' * 100} version= rows=0 code=NOT_FOUND ms=" in line.getMessage()
    assert runs.finished_requests == [("", "NOT_FOUND")]


async def test_the_access_log_names_the_token_where_there_are_tokens(caplog):
    caplog.set_level("INFO")
    call = FakeCall()
    call.caller = "frontend"
    Inference(call, AccessLog()).fail(ModelNotFound("no"))
    (line,) = caplog.records
    assert line.caller == "frontend"
    assert line.getMessage().startswith("frontend: ModelInfer model= ")
