"""How many processes serve, as the settings say and this machine can. Starts none, and loads no runtime."""

import importlib.metadata
import os
from pathlib import Path

from conveyor_server.core.errors import StartError
from conveyor_server.engine.cpu_budget import CGROUP, cgroup_quota
from conveyor_server.engine.memory_budget import memory_budget
from conveyor_server.engine.providers import ExecutionProvider
from conveyor_server.settings import Settings, Transport

_WORKER_BYTES = 256 * 2**20
"""What a worker should find: it takes 63 MiB when idle, with small models; requests and their answers come on top."""


def choose_workers(settings: Settings) -> int:
    """How many workers there are to be; 1 stands for a server of one process, without a supervisor.

    Args:
        settings: with a transport that is not `auto`.

    Raises:
        StartError: more than one are wanted, and cannot be.
    """
    if settings.workers == 1:
        return 1
    reason = _why_only_one(settings)
    if settings.workers and reason:
        raise StartError(f"--workers {settings.workers}: {reason}")
    if settings.workers:
        return settings.workers
    # grpcio can neither spread connections evenly nor hand them over, so nobody gets several of it without asking.
    return 1 if reason or settings.transport is Transport.GRPCIO else affordable_workers()


def affordable_workers(cgroup: Path = CGROUP) -> int:
    """As many workers as there are whole CPUs for this process, and memory for them; at least 1."""
    cpus = min(len(os.sched_getaffinity(0)), int(cgroup_quota(cgroup) or 2**16))
    return max(1, min(cpus, memory_budget(cgroup) // _WORKER_BYTES))


def _why_only_one(settings: Settings) -> str:
    """Why several processes cannot serve; empty when they can."""
    if settings.execution_provider is not ExecutionProvider.CPU and (
        settings.execution_provider is ExecutionProvider.CUDA or _has_cuda_runtime()
    ):
        return (
            "several processes would share one GPU and lose more than they gain. Start one process for each GPU, or "
            "say --execution-provider cpu."
        )
    if settings.transport is Transport.GRPCIO and settings.unix_socket:
        return "with --transport grpcio only one process can listen at --unix-socket. Leave one of the three out."
    return ""


def _has_cuda_runtime() -> bool:
    try:
        importlib.metadata.version("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
