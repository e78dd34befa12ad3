"""The raw rounds of a run, on disk while it lasts, so that it may be interrupted."""

import json
from pathlib import Path

from harness.results import Json, to_text

_FACTS = "run.json"


class KeptRounds:
    """A file for each server and round.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, facts: Json, *, resume: bool) -> None:
        """Takes up the rounds that are there if their facts but for the date are these, or if asked; else begins anew.

        Rounds of a checkout with changes are taken up only if asked.
        """
        before = self.facts()
        same = before | {"date": ""} == facts | {"date": ""} and not facts["commit"].endswith("+")
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
