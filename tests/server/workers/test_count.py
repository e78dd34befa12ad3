import importlib.metadata
import os
import subprocess
import sys

import pytest

from conveyor_server.core.errors import StartError
from conveyor_server.engine.providers import ExecutionProvider
from conveyor_server.settings import Settings, Transport
from conveyor_server.workers import count
from conveyor_server.workers.count import affordable_workers, choose_workers


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(count, "CGROUP", "/nowhere")


def settings(transport=Transport.H2, **others):
    return Settings(transport=transport, **others)


@pytest.mark.parametrize(
    ("quota", "memory", "workers"),
    [
        ("max 100000", "max", 4),
        ("100000 100000", "max", 1),
        ("199999 100000", "max", 1),
        ("200000 100000", "max", 2),
        ("900000 100000", "max", 4),
        ("50000 100000", "max", 1),
        ("max 100000", str(3 * 256 * 2**20), 3),
        ("max 100000", "1000", 1),
    ],
)
def test_there_is_a_worker_for_each_whole_cpu_and_memory_for_it(tmp_path, quota, memory, workers):
    (tmp_path / "cpu.max").write_text(quota)
    (tmp_path / "memory.max").write_text(memory)
    assert affordable_workers(tmp_path) == workers


def test_the_older_cgroups_count_as_well(tmp_path):
    for name, value in (("cpu/cpu.cfs_quota_us", 300000), ("cpu/cpu.cfs_period_us", 100000)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    assert affordable_workers(tmp_path) == 3
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2 * 256 * 2**20}\n")
    assert affordable_workers(tmp_path) == 2


def test_who_says_how_many_gets_as_many():
    assert choose_workers(settings(workers=1)) == 1
    assert choose_workers(settings(workers=7)) == 7
    assert choose_workers(settings(Transport.GRPCIO, workers=3)) == 3
    assert choose_workers(settings(Transport.GRPCIO)) == 1


def test_cuda_has_one_worker(monkeypatch):
    assert choose_workers(settings(execution_provider=ExecutionProvider.CUDA)) == 1
    with pytest.raises(StartError, match=r"--workers 2: several processes would share one GPU"):
        choose_workers(settings(execution_provider=ExecutionProvider.CUDA, workers=2))
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.20")
    assert choose_workers(settings()) == 1
    with pytest.raises(StartError, match="say --execution-provider cpu"):
        choose_workers(settings(workers=2))
    assert choose_workers(settings(workers=2, execution_provider=ExecutionProvider.CPU)) == 2


def test_a_path_has_one_listener_with_grpcio():
    assert choose_workers(settings(Transport.GRPCIO, unix_socket="/tmp/s")) == 1
    assert choose_workers(settings(unix_socket="/tmp/s", workers=2)) == 2
    with pytest.raises(StartError, match="only one process can listen at --unix-socket"):
        choose_workers(settings(Transport.GRPCIO, unix_socket="/tmp/s", workers=2))


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("conveyor_server.app", ["conveyor_server.workers"]),
        ("conveyor_server.workers.supervisor", ["onnxruntime", "numpy", "google.protobuf", "grpc", "ngh2"]),
    ],
)
def test_a_process_imports_only_what_it_needs(imported, absent):
    code = f"import sys, {imported}; print([name for name in {absent} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
