"""Passes connections on to a server, and counts them."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Relay:
    """A way to a server on loopback, in the test's own event loop.

    Attributes:
        connections: how many came so far.
        received: bytes that clients have sent.
    """

    def __init__(self, url: str) -> None:
        self._target = url.rsplit(":", 1)
        self.connections = 0
        self.received = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._serving.add(asyncio.current_task())
        host, port = self._target
        server_reader, server_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(self._copy(reader, server_writer, True), self._copy(server_reader, writer, False))
        except asyncio.CancelledError:
            pass  # the relay is closed; asyncio's streams would complain of the end of their task
        finally:
            for end in (writer, server_writer):
                end.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.received += counted * len(data)
                writer.write(data)
                await writer.drain()
        writer.close()
