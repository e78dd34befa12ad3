"""Owns the checked reading of a TOML table: every message begins with the path of the key. Knows no key's meaning."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Never, TypeVar

from conveyor_exporter.arguments import did_you_mean
from conveyor_exporter.errors import ExporterError, InvalidSpecification

T = TypeVar("T")


class TomlTable:
    """A table with its place in the file.

    Args:
        values: what the table has.
        path: `model.layers[2]`; empty for the whole file.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self.values, self.path = values, path

    def at(self, key: str) -> str:
        """Return the path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def fail(self, key: str, message: str) -> Never:
        """Raise `InvalidSpecification` about a key."""
        raise InvalidSpecification(f"{self.at(key)}: {message}")

    def check_keys(self, known: Iterable[str]) -> None:
        """Accept only known keys.

        Raises:
            InvalidSpecification: there is another one.
        """
        names = list(known)
        for key in self.values:
            if key not in names:
                self.fail(key, f"unknown key; known are {', '.join(names)}.{did_you_mean(key, names)}")

    def require(self, key: str, expected: str) -> Any:
        """Return the value of a key.

        Raises:
            InvalidSpecification: it is missing; the message says what is `expected`.
        """
        if key not in self.values:
            self.fail(key, f"is missing; expected {expected}.")
        return self.values[key]

    def integer(self, key: str, default: int, at_least: int) -> int:
        """Return the whole number of a key, not below `at_least`.

        Raises:
            InvalidSpecification: it is anything else.
        """
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            self.fail(key, f"expected a whole number from {at_least}, got {value!r}.")
        return value

    def share(self, key: str, default: float, zero: bool) -> float:
        """Return the number of a key, above 0 (or from 0, where `zero` says so) and below 1.

        Raises:
            InvalidSpecification: it is anything else.
        """
        value = self.values.get(key, default)
        fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
        if not fits or (value == 0 and not zero):
            self.fail(key, f"expected a number {'from' if zero else 'above'} 0 and below 1, got {value!r}.")
        return float(value)

    def table(self, key: str) -> "TomlTable":
        """Return the table under a key.

        Raises:
            InvalidSpecification: it is missing, or no table.
        """
        value = self.require(key, f"a table [{self.at(key)}]")
        if not isinstance(value, Mapping):
            self.fail(key, f"expected a table [{self.at(key)}], got {value!r}.")
        return TomlTable(value, self.at(key))

    def tables(self, key: str) -> list["TomlTable"]:
        """Return the tables of the array under a key, at least one.

        Raises:
            InvalidSpecification: it is missing or empty, or holds something else.
        """
        value = self.require(key, f"tables [[{self.at(key)}]]")
        if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
            self.fail(key, f"expected tables [[{self.at(key)}]], at least one, got {value!r}.")
        return [TomlTable(item, f"{self.at(key)}[{number}]") for number, item in enumerate(value)]

    def construct(self, make: Callable[..., T], arguments: Mapping[str, Any]) -> T:
        """Return `make(**arguments)`, its complaint about an argument turned into one about the key.

        Raises:
            InvalidSpecification: `make` refused.
        """
        try:
            return make(**arguments)
        except ExporterError as error:
            self.blame(error)

    def blame(self, error: ExporterError) -> Never:
        """Raise an error as one about this table, or about the key that its message names first."""
        named = re.search(r"`(\w+)`", str(error))
        key = named[1] if named else ""
        path = self.at(key) if key in self.values else self.path
        raise InvalidSpecification(f"{path}: {error}") from error


def flatten(values: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Return all single values of a document, as text, by their paths."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        place = f"{path}.{key}" if path else key
        tables = isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
        entries = {place: value} if not tables else {f"{place}[{n}]": item for n, item in enumerate(value)}
        for name, entry in entries.items():
            flat |= flatten(entry, name) if isinstance(entry, Mapping) else {name: repr(entry)}
    return flat
