"""Owns the reading of JSON from a file that nobody vouches for: bounded, and typed before it is used."""

import json
import math
from typing import Any, NoReturn

from conveyor_exporter.errors import ModelFileRefused

MAX_BYTES = 4 << 20
"""A network of 200 layers needs 200 KB; parsed JSON takes some 25 times its text in memory."""

Object = dict[str, Any]


def parse_object(text: bytes | str, what: str) -> Object:
    """Return JSON text as a dictionary.

    Args:
        text: UTF-8, or text that is decoded already.
        what: how messages call the text, such as `config.json`.

    Raises:
        ModelFileRefused: it is too long, nested too deeply, no JSON, or no object.
    """
    if len(text) > MAX_BYTES:
        raise ModelFileRefused(f"{what} has {len(text):,} bytes; a network's description has at most {MAX_BYTES:,}.")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ModelFileRefused(f"{what} is nested too deeply.") from error
    except ValueError as error:  # no JSON, no UTF-8, or an integer with thousands of digits
        raise ModelFileRefused(f"{what} is not JSON: {quoted(str(error))}.") from error
    return as_object(value, what)


def as_object(value: object, what: str) -> Object:
    """Return `value` when it is a JSON object.

    Raises:
        ModelFileRefused: it is something else.
    """
    if not isinstance(value, dict):
        raise ModelFileRefused(f"{what} must be a JSON object, got {quoted(value)}.")
    return value


def as_list(value: object, what: str) -> list[Any]:
    """Return `value` when it is a JSON array.

    Raises:
        ModelFileRefused: it is something else.
    """
    if not isinstance(value, list):
        raise ModelFileRefused(f"{what} must be a JSON array, got {quoted(value)}.")
    return value


def as_text(value: object, what: str) -> str:
    """Return `value` when it is a string of 1 to 1,000 characters.

    Raises:
        ModelFileRefused: it is something else.
    """
    if not isinstance(value, str) or not 0 < len(value) <= 1000:
        raise ModelFileRefused(f"{what} must be a short text, got {quoted(value)}.")
    return value


def is_plain(value: object) -> bool:
    """Tell whether `value` is a text, a truth value, null, a number of usual size, or a short list of such."""
    if isinstance(value, list):
        return len(value) <= 8 and all(is_plain(item) for item in value)
    if isinstance(value, int | float):
        return math.isfinite(value) and abs(value) < 1 << 31
    return value is None or isinstance(value, str)


def quoted(value: object) -> str:
    """Return `value` as it can be shown in a message: short, control characters escaped."""
    text = ascii(value) if not isinstance(value, list | dict) else f"{type(value).__name__} of {len(value)}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def printable(text: str) -> str:
    """Return a message that repeats parts of the file as it can be shown: on one line, of some length at most."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= 800 else f"{text[:797]}..."


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
