import os

import pytest

from conveyor_server.engine.cpu_budget import cgroup_quota, cpu_budget


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
    ],
)
def test_quota_of_both_cgroup_versions(tmp_path, files, quota):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert cgroup_quota(tmp_path) == quota


def test_the_budget_is_the_smaller_of_affinity_and_quota_and_never_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert cpu_budget(tmp_path) == 8
    for text, expected in [("250000 100000", 3), ("1000 100000", 1), ("9900000 100000", 8)]:
        (tmp_path / "cpu.max").write_text(text)
        assert cpu_budget(tmp_path) == expected
