"""The results of a comparison: raw rounds on disk while it runs, one JSON file at the end, and its medians."""

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.environments import ROOT
from harness.medians import median

Json = dict[str, Any]
_FACTS = "run.json"


def commit() -> str:
    """The commit of this checkout, with a plus sign if files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".", ":!docs") else "")


class Rounds:
    """The raw rounds of a comparison that may be interrupted: a file for each server and round."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, facts: Json, *, resume: bool) -> None:
        """Takes up the rounds that are there if they have the same facts, or if asked; else begins anew.

        Rounds of a checkout with changes are taken up only if asked.
        """
        before = self.facts()
        same = before == facts and not facts["commit"].endswith("+")
        if before and (resume or same):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("*.json"):
            old.unlink()
        (self._folder / _FACTS).write_text(to_text(facts))

    def facts(self) -> Json:
        """What the figures depend on."""
        file = self._folder / _FACTS
        return json.loads(file.read_text()) if file.exists() else {}

    def load(self, server: str, number: int) -> Json:
        file = self._file(server, number)
        return json.loads(file.read_text()) if file.exists() else {}

    def save(self, server: str, number: int, found: Json) -> None:
        unfinished = self._file(server, number).with_suffix(".part")
        unfinished.write_text(to_text(found))
        unfinished.replace(self._file(server, number))

    def all(self, server: str) -> list[Json]:
        """The rounds of a server, in order."""
        files = sorted(self._folder.glob(f"{server}.[0-9]*.json"), key=lambda file: int(file.suffixes[-2][1:]))
        return [json.loads(file.read_text()) for file in files]

    def _file(self, server: str, number: int) -> Path:
        return self._folder / f"{server}.{number}.json"


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
