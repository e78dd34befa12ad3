"""Who may call what, by the token in a call's `authorization` header. Knows no transport.

A transport asks before it reads a call's body; without a file of tokens there is nobody to ask.
"""

from collections import Counter
from pathlib import Path

from conveyor_server.core.errors import NotPermitted, RequestError, Unauthenticated
from conveyor_server.wire.file_watch import WatchedFiles
from conveyor_server.wire.tokens import Caller, Scope, Tokens, read_tokens

_MAX_KNOWN = 4096


class Access:
    """The rights of callers.

    Args:
        path: the file of tokens.

    Raises:
        StartError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.files: WatchedFiles[Tokens] = WatchedFiles("Tokens", [path], lambda: read_tokens(path))
        self.denied: Counter[type[RequestError]] = Counter()
        """Calls that were turned away, by the error that they got."""
        self._known: dict[str, Caller] = {}

    async def watch(self) -> None:
        """Follows the file: what it says counts from then on for every call that begins."""
        await self.files.watch(self._known.clear)

    def check(self, scope: Scope, authorization: str | None) -> Caller:
        """Who calls, if they may.

        Args:
            scope: what the call needs.
            authorization: its header of that name.

        Raises:
            Unauthenticated: no token, or an unknown one.
            NotPermitted: the token lacks the scope.
        """
        caller = self._known.get(authorization or "") or self._identify(authorization)
        if scope not in caller.scopes:
            self.denied[NotPermitted] += 1
            raise NotPermitted(
                f"The token '{caller.name}' lacks the scope '{scope}', which this call needs. It has: "
                f"{', '.join(sorted(caller.scopes))}."
            )
        return caller

    def name_of(self, authorization: str | None) -> str:
        """Whose token this is, for the log; empty for one that `check` has not let in."""
        caller = self._known.get(authorization or "")
        return caller.name if caller else ""

    def _identify(self, authorization: str | None) -> Caller:
        """Finds a token's owner, and remembers it by the header's text, so that this is done once for each token.

        Only good ones are remembered. To learn from the time of that look-up, someone would need the text's hash, which
        is keyed anew in every process.
        """
        scheme, _, token = (authorization or "").partition(" ")
        tokens = self.files.value
        caller = tokens.find(token.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            self.denied[Unauthenticated] += 1
            raise Unauthenticated(
                "The token is not known to this server."
                if authorization
                else "This server wants a token, in the header 'authorization: Bearer <token>'."
            )
        if authorization and tokens is self.files.value:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[authorization] = caller
        return caller
