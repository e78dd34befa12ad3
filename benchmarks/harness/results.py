"""The results of a comparison, and their medians."""

import json
import re
import subprocess
from collections.abc import Iterable
from typing import Any

from harness.environments import ROOT
from harness.medians import median

Json = dict[str, Any]


def commit() -> str:
    """The commit of this checkout, with a plus sign if files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".", ":!docs") else "")


def to_text(value: Json) -> str:
    """JSON with the innermost objects on a line each, and numbers as exact as they are worth."""
    text = json.dumps(_rounded(value), indent=1, ensure_ascii=False)
    return re.sub(r"\{[^{}\[\]]*\}", lambda found: re.sub(r"\n\s*", " ", found[0]), text) + "\n"


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.5g}")
        case dict():
            return {str(key): _rounded(inner) for key, inner in value.items()}
        case list():
            return [_rounded(inner) for inner in value]
    return value


class Comparison:
    """What a finished comparison says. Medians are over its rounds; what was not measured, or is void, is nan."""

    def __init__(self, raw: Json) -> None:
        self.raw = raw

    def figure(self, server: str, row: str, name: str) -> float:
        """The median of one figure of a row."""
        return median(window[name] for window in self.windows(server, row))

    def windows(self, server: str, row: str) -> list[Json]:
        """The measurements of a row that are not void."""
        windows = [found["rows"][row] for found in self._rounds(server) if row in found.get("rows", {})]
        return [] if any("void" in window for window in windows) else windows

    def void(self, server: str, row: str) -> str:
        """Why a row is void, or nothing."""
        windows = [found.get("rows", {}).get(row, {}) for found in self._rounds(server)]
        return next((window["void"] for window in windows if "void" in window), "")

    def voids(self) -> list[str]:
        """The rows that are void, and why."""
        rows = [
            (server, row)
            for server in self.raw["servers"]
            for one in self._rounds(server)
            for row in one.get("rows", ())
        ]
        return [f"{server}, {row}: {why}" for server, row in dict.fromkeys(rows) if (why := self.void(server, row))]

    def process(self, server: str, name: str, rounds: str = "rounds") -> float:
        """The median of a figure of the server itself, such as `start_seconds`."""
        found = self.raw["servers"].get(server, {}).get(rounds, [])
        return median(one[name] for one in found if name in one)

    def measured(self, server: str) -> bool:
        """Whether it could be started."""
        return any("start_seconds" in found for found in self._rounds(server))

    def _rounds(self, server: str) -> list[Json]:
        return self.raw["servers"].get(server, {}).get("rounds", [])

    def in_process(self, batch: int) -> float:
        """Images per second of ONNX Runtime alone."""
        return median(found[str(batch)] for found in self.raw["in_process"] if str(batch) in found)

    def best_in_process(self) -> tuple[int, float]:
        """The batch at which ONNX Runtime alone is fastest, and its images per second; nan of nothing."""
        batches = {int(batch) for found in self.raw["in_process"] for batch in found}
        rates = {batch: self.in_process(batch) for batch in batches}
        best = max(rates, key=rates.__getitem__, default=0)
        return best, rates.get(best, float("nan"))

    def all_windows(self) -> Iterable[Json]:
        """Every measurement."""
        for server in self.raw["servers"].values():
            for found in server["rounds"]:
                yield from (window for window in found.get("rows", {}).values() if "void" not in window)
