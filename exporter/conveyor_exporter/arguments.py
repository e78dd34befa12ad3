"""Owns the checks that turn what a user wrote into canonical values; knows nothing of torch or of layers."""

import difflib
from collections.abc import Iterable, Sequence
from typing import SupportsIndex, TypeGuard

from conveyor_exporter.errors import InvalidArgument, InvalidArgumentType

Pair = tuple[int, int]
Shape = tuple[int, ...]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'relu'?"` when a known name is close to `name`, else an empty string."""
    close = difflib.get_close_matches(name.lower(), sorted(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def is_integer(value: object) -> TypeGuard[SupportsIndex]:
    """Tell whether `value` is a whole number; `True` and `False` are not."""
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def positive_integer(value: object, argument: str, owner: str) -> int:
    """Return `value` as an int of at least 1.

    Raises:
        InvalidArgumentType: `value` is no number at all.
        InvalidArgument: `value` is a number but not a positive whole one.
    """
    message = f"{owner}: `{argument}` must be a positive integer, got {value!r}."
    if is_integer(value) and int(value) >= 1:
        return int(value)
    raise (InvalidArgument if is_integer(value) or isinstance(value, float) else InvalidArgumentType)(message)


def positive_pair(value: object, argument: str, owner: str) -> Pair:
    """Return `value`, one positive integer for both axes or one for each, as (height, width).

    Raises:
        InvalidArgument: `value` is anything else.
    """
    items = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value, value]
    numbers = [int(item) for item in items if is_integer(item) and int(item) >= 1]
    if len(items) != 2 or len(numbers) != 2:
        raise InvalidArgument(
            f"{owner}: `{argument}` must be a positive integer or a tuple of 2 positive integers "
            f"(height, width), got {value!r}."
        )
    return numbers[0], numbers[1]


def one_of(value: object, choices: Sequence[str], argument: str, owner: str) -> str:
    """Return `value` in lower case when it is one of `choices`.

    Raises:
        InvalidArgumentType: `value` is not a string.
        InvalidArgument: `value` is not among the choices.
    """
    allowed = " or ".join(repr(choice) for choice in choices)
    if not isinstance(value, str):
        raise InvalidArgumentType(f"{owner}: `{argument}` must be {allowed}, got {value!r}.")
    if value.lower() not in choices:
        raise InvalidArgument(f"{owner}: `{argument}` must be {allowed}, got {value!r}.{did_you_mean(value, choices)}")
    return value.lower()


def boolean(value: object, argument: str, owner: str) -> bool:
    """Return `value` when it is `True` or `False`.

    Raises:
        InvalidArgumentType: `value` is anything else.
    """
    if not isinstance(value, bool):
        raise InvalidArgumentType(f"{owner}: `{argument}` must be True or False, got {value!r}.")
    return value


def sample_shape(value: object, owner: str) -> Shape:
    """Return the shape of one sample, without the batch axis, as a tuple of positive integers.

    Raises:
        InvalidArgumentType: `value` is not a sequence.
        InvalidArgument: an axis is open (`None`) or not positive.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InvalidArgumentType(
            f"{owner}: cannot read {value!r} as `input_shape`; write the axes of one sample, such as (28, 28, 1)."
        )
    if not value or not all(is_integer(axis) and int(axis) >= 1 for axis in value):
        raise InvalidArgument(
            f"{owner}: `input_shape` must name every axis of one sample as a positive integer, without the batch axis, "
            f"such as (28, 28, 1); got {value!r}."
        )
    return tuple(int(axis) for axis in value)


def layer_name(value: object, owner: str) -> str:
    """Return `value` when it can name a layer: non-empty, without the separators `.` and `/`.

    Raises:
        InvalidArgument: it cannot.
    """
    if not isinstance(value, str) or not value or set(value) & set("./"):
        raise InvalidArgument(
            f"{owner}: `name` must be a non-empty string without '.' and '/', which separate names inside the "
            f"exported file; got {value!r}."
        )
    return value


def check_data_format(value: object, owner: str) -> None:
    """Accept None and `channels_last`.

    Raises:
        InvalidArgument: `value` is anything else.
    """
    if value is not None and value != "channels_last":
        raise InvalidArgument(
            f"{owner}: `data_format` must be 'channels_last' (images are [batch, height, width, channels]), "
            f"got {value!r}."
        )
