"""How many threads this process may really use. Reads the affinity mask and the container's CPU quota, nothing else.

The host's core count is the wrong number in a container: a pool sized from it is throttled by the quota.
"""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_budget(cgroup: Path = CGROUP) -> int:
    """Whole CPUs that this process can keep busy: the affinity mask, cut by the cgroup quota; at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = cgroup_quota(cgroup)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def cgroup_quota(cgroup: Path = CGROUP) -> float | None:
    """The container's CPU quota in CPUs (cgroup v2 `cpu.max`, v1 `cpu.cfs_*`), or None where there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)
