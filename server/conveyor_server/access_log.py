"""One log line for each inference request, when asked for. Names and numbers only; never what a tensor holds."""

import logging

from conveyor_server.wire.inference import Inference
from conveyor_server.wire.status import Status

log = logging.getLogger(__name__)

_LONGEST = 100
"""Characters of a name that a client chose."""
_LINE = (
    "%(method)s model=%(model)s version=%(version)s rows=%(rows)d code=%(code)s ms=%(milliseconds).3f id=%(request_id)s"
)
_LINE_OF_A_CALLER = f"%(caller)s: {_LINE}"
"""Where the server has tokens, whose it was; a token itself is never logged."""


class AccessLog:
    """Writes the lines."""

    def finished(self, request: Inference, status: Status, seconds: float) -> None:
        """An inference request ended."""
        spec = request.spec
        fields = {
            "method": request.call.method,
            "caller": request.call.caller,
            "model": spec.name if spec else request.wish.model[:_LONGEST],
            "version": spec.version if spec else "",
            "rows": request.rows,
            "code": status.name,
            "milliseconds": round(seconds * 1000, 3),
            "request_id": request.call.request_id[:_LONGEST],
        }
        log.info(
            _LINE_OF_A_CALLER if request.call.caller else _LINE,
            fields,
            extra=fields,
        )
