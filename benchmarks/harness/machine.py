"""What the kernel says of this machine and of processes: cores, stolen time, CPU time, memory, listening ports."""

import ctypes
import os
import platform
import re
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_LISTENING = "0A"
_STOPS = (signal.SIGTERM, signal.SIGINT)
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_OF_THE_REST = 1.0


class CoreTime(NamedTuple):
    """Seconds since the machine started that some cores were busy, and that a hypervisor took from them."""

    busy: float
    stolen: float


def core_time(cores: Iterable[int]) -> CoreTime:
    wanted, busy, stolen = {f"cpu{core}" for core in cores}, 0, 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _waiting, interrupts, soft, steal = map(int, fields[:8])
            busy += user + nice + system + interrupts + soft
            stolen += steal
    return CoreTime(busy / _TICKS, stolen / _TICKS)


def process_tree(root: int) -> set[int]:
    """The process and all that descend from it."""
    tree, found = set(), [root]
    while found:
        tree.add(process := found.pop())
        with suppress(OSError):
            for children in Path(f"/proc/{process}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return tree


def cpu_seconds(root: int) -> float:
    """CPU time that a process and its descendants have used."""
    ticks = 0
    for process in process_tree(root):
        with suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


class Memory(NamedTuple):
    """MiB of a process tree. Pages that processes share count for each in `resident`, and once in `proportional`."""

    resident: float
    proportional: float
    processes: int


def memory(root: int) -> Memory:
    resident = proportional = processes = 0
    for process in process_tree(root):
        with suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            resident += int(re.search(r"^Rss:\s+(\d+)", text, re.MULTILINE)[1])
            proportional += int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])
            processes += 1
    return Memory(resident / 1024, proportional / 1024, processes)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [opened.getsockname()[1] for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()


def listeners(port: int) -> set[str]:
    """The sockets that listen on a port, by inode."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rsplit(":", 1)[1], 16) == port:
                found.add(fields[9])
    return found


def listens(root: int, port: int) -> bool:
    """Whether every socket that listens on the port belongs to the process tree, and there is one."""
    mine = set()
    for process in process_tree(root):
        with suppress(OSError):
            for descriptor in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    mine.add(os.readlink(descriptor))
    found = listeners(port)
    return bool(found) and all(f"socket:[{inode}]" in mine for inode in found)


def adopt_orphans(adopt: bool = True) -> None:
    """Makes this process the parent of those whose parents end, so that `end_tree` finds them; or undoes that."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts off SIGTERM and SIGINT until the `with` block has ended."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def end_tree(root: int, bystanders: set[int], grace: float) -> float:
    """Ends a child of this process and its descendants, by force after `grace` seconds; returns how long it took.

    Args:
        root: the child.
        bystanders: descendants of this process that live on.
        grace: seconds for the child; what it leaves behind has a second more.

    Needs `adopt_orphans`: descendants that have sessions of their own are found through it.
    """
    begin, took = time.monotonic(), grace
    patience = begin + grace
    with suppress(ProcessLookupError):
        os.kill(root, signal.SIGTERM)
    while left := process_tree(os.getpid()) - bystanders:
        for process in left:
            if time.monotonic() > patience:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            with suppress(ChildProcessError):
                if os.waitpid(process, os.WNOHANG)[0] == root:
                    took = time.monotonic() - begin
                    patience = min(patience, begin + took + _GRACE_OF_THE_REST)
        time.sleep(0.02)
    return took


def describe() -> dict[str, str | int]:
    """This machine in words, for a report."""
    processor = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    kibibytes = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    flags = Path("/proc/cpuinfo").read_text()
    vectors = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "none")
    return {
        "processor": processor[1] if processor else platform.machine(),
        "vectors": vectors,
        "cores": os.cpu_count() or 0,
        "memory_gib": round(int(kibibytes[1]) / 1024**2) if kibibytes else 0,
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
