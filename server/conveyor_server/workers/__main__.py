"""A worker process, as its supervisor starts it: `python -m conveyor_server.workers NUMBER DESCRIPTOR PARENT`.

Not for people: without the supervisor at the other end of the descriptor it ends at once.
"""

import asyncio
import ctypes
import os
import signal
import socket
import sys

from conveyor_server.core.errors import StartError
from conveyor_server.workers.frames import Frame, Kind
from conveyor_server.workers.sayings import Topic

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Entry point. Exit codes: 0 told to end, 1 cannot serve, or the supervisor has gone."""
    number, descriptor, parent = map(int, sys.argv[1:])
    _die_with(parent)
    end = socket.socket(fileno=descriptor)
    sys.exit(asyncio.run(_run(number, end)))


async def _run(number: int, end: socket.socket) -> int:
    try:
        from conveyor_server.workers.worker import Worker  # what takes time comes behind what must not wait
    except StartError as error:  # no runtime is installed
        end.sendall(Frame(Kind.NOTICE, Topic.FAILED, str(error)).encode())
        return 1
    return await Worker(number, end).run()


def _die_with(parent: int) -> None:
    """Has the system kill this process when its supervisor ends in whatever way, also when nothing here runs any more.

    A worker that runs notices it first, by the end of its channel.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        sys.exit(1)


if __name__ == "__main__":
    main()
