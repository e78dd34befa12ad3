"""What our server says of itself on its metrics page, and what happened between two looks at it."""

import re
import urllib.request

Samples = dict[str, float]
"""By name with labels."""


def scrape(port: int) -> Samples:
    """The page of a server on loopback."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        lines = [line.rsplit(" ", 1) for line in page.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def median_of(histogram: str, before: Samples, after: Samples) -> float | None:
    """The bound under which half of what a histogram took in lies, of all its labels; None if it took in nothing."""
    counts: dict[float, float] = {}
    for name, value in after.items():
        if found := re.match(rf"{histogram}_bucket{{.*le=\"([^\"]+)\"", name):
            bound = float(found[1])
            counts[bound] = counts.get(bound, 0) + value - before.get(name, 0)
    total = counts.get(float("inf"), 0)
    return next((bound for bound, count in sorted(counts.items()) if count >= total / 2), None) if total else None


def mean_of(histogram: str, labels: str, before: Samples, after: Samples) -> float:
    """The mean of what a histogram took in, with labels such as `model="m"`."""
    grown = {
        part: after[f"{histogram}_{part}{{{labels}}}"] - before.get(f"{histogram}_{part}{{{labels}}}", 0)
        for part in ("sum", "count")
    }
    return grown["sum"] / grown["count"]
