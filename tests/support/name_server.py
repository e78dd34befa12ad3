"""A DNS server that says what the test says, so that names can change their addresses."""

import asyncio
import ipaddress
import struct
from types import TracebackType
from typing import Self

_A = 1


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for IPv4 addresses with `addresses`, in the test's own event loop.

    Attributes:
        questions: how many came.
        url: `host:port` of it.
    """

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.questions = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._transport.get_extra_info('sockname')[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.questions += 1
        end = data.index(b"\0", 12) + 5  # the name, then type and class of the question
        (kind,) = struct.unpack_from(">H", data, end - 4)
        found = self.addresses if kind == _A else []
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, len(found), 0, 0)
        # Each record's name is a pointer to the question's; it may be kept for no time at all.
        records = [
            struct.pack(">HHHIH", 0xC00C, _A, 1, 0, 4) + ipaddress.IPv4Address(address).packed for address in found
        ]
        self._transport.sendto(head + data[12:end] + b"".join(records), address)
