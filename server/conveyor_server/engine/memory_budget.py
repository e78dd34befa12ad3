"""How much memory this process may really take. Reads the machine's size and the container's limit, nothing else."""

import os
from pathlib import Path

from conveyor_server.engine.cpu_budget import CGROUP


def memory_budget(cgroup: Path = CGROUP) -> int:
    """Bytes that this process and its children may take: the machine's, cut by the cgroup limit."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):  # of cgroups v2, v1
        try:
            memory = min(memory, int(file.read_text()))
        except (OSError, ValueError):  # no such version of cgroups; "max"
            continue
    return memory
