"""Owns the checks that turn what a user wrote into canonical values; knows nothing of torch or of layers."""

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import SupportsIndex, TypeGuard

from conveyor_exporter.errors import InvalidArgument, InvalidArgumentType

Pair = tuple[int, int]
Shape = tuple[int, ...]
Border = tuple[Pair, Pair]
"""Cells around an image: ((top, bottom), (left, right))."""


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


def number(
    value: object, argument: str, owner: str, *, at_least: float = -math.inf, at_most: float = math.inf
) -> float:
    """Return `value` as a finite float between `at_least` and `at_most`, both included.

    Raises:
        InvalidArgumentType: `value` is not a number.
        InvalidArgument: it lies outside, or is not finite.
    """
    bounds = [f"at least {at_least:g}"] * (at_least > -math.inf) + [f"at most {at_most:g}"] * (at_most < math.inf)
    message = f"{owner}: `{argument}` must be a number{', ' * bool(bounds)}{' and '.join(bounds)}, got {value!r}."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidArgumentType(message)
    if not math.isfinite(float(value)) or not at_least <= float(value) <= at_most:
        raise InvalidArgument(message)
    return float(value)


def axis(value: object, argument: str, owner: str) -> int:
    """Return `value`, an integer or, as in some of Keras' files, a list of one, as an int.

    Raises:
        InvalidArgument: `value` is anything else.
    """
    item = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1 else value
    if not is_integer(item):
        raise InvalidArgument(f"{owner}: `{argument}` must be one integer, -1 for the last axis, got {value!r}.")
    return int(item)


def border(value: object, argument: str, owner: str) -> Border:
    """Return `value` as cells around an image: one number for all sides, one for each axis, or a pair for each axis.

    Raises:
        InvalidArgument: `value` is anything else.
    """
    axes = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value, value]
    pairs = [list(axis) if isinstance(axis, Sequence) and not isinstance(axis, str) else [axis, axis] for axis in axes]
    cells = [[int(cell) for cell in pair if is_integer(cell) and int(cell) >= 0] for pair in pairs]
    if [len(pair) for pair in pairs] != [2, 2] or [len(pair) for pair in cells] != [2, 2]:
        raise InvalidArgument(
            f"{owner}: `{argument}` must be an integer of at least 0, a tuple of 2 (height, width), or "
            f"((top, bottom), (left, right)), got {value!r}."
        )
    (top, bottom), (left, right) = cells
    return (top, bottom), (left, right)


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


def check_spacing(strides: Pair, dilation_rate: Pair, owner: str) -> None:
    """Accept strides or a dilation rate above 1, not both, as Keras does.

    Raises:
        InvalidArgument: both are.
    """
    if max(strides) > 1 and max(dilation_rate) > 1:
        raise InvalidArgument(f"{owner}: strides={strides} and dilation_rate={dilation_rate} cannot both be above 1.")
