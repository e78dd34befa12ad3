"""How log lines look, for people or for machines. Knows nothing of what is logged.

Modules log with `logging.getLogger(__name__)`; facts that a machine should find (model, version, request_id, …) go into
`extra`, and become fields of the JSON line.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest came in `extra`."""


class LogFormat(StrEnum):
    """How log lines look."""

    HUMAN = "human"
    JSON = "json"


def set_up_logging(level: str, style: LogFormat, worker: int | None = None) -> None:
    """Sends everything from `level` (a name of `logging`, any case) on to standard error, one line an event.

    Args:
        level: the least important lines that are written.
        style: how they look.
        worker: the number that all of them bear, where several processes write to the same place.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style is LogFormat.JSON else HumanFormatter(worker))
    if worker is not None:
        handler.addFilter(partial(_sign, worker))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class HumanFormatter(logging.Formatter):
    """Time, level, message. Names that came from clients cannot forge lines: control characters are escaped.

    Args:
        worker: the process' number, in front of each message; None for none.
    """

    def __init__(self, worker: int | None = None) -> None:
        source = "" if worker is None else f"[worker {worker}] "
        super().__init__(f"%(asctime)s %(levelname)-7s {source}%(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        """The line; a traceback follows it on lines of its own."""
        record.message = escape(record.message)
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what came in `extra`, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _OWN and name not in line)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def _sign(worker: int, record: logging.LogRecord) -> bool:
    """Names the process in a record; a field of the JSON line."""
    record.worker = worker
    return True


def escape(text: str) -> str:
    """The text with everything that a terminal or a line-wise reader would act on made visible."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
