"""Owns the table that `summary()` prints, laid out as Keras' own; knows layers only by their public face."""

import math
from collections.abc import Sequence

from conveyor_exporter.arguments import Shape
from conveyor_exporter.layers.base import Layer

HEADINGS = ("Layer (type)", "Output Shape", "Param #")
MINIMAL_WIDTHS = (31, 22, 13)  # Keras' column widths in a terminal of 80 columns
BYTES_PER_PARAMETER = 4  # float32


def summary_table(name: str, layers: Sequence[Layer]) -> str:
    """Return the table of layers with their output shapes and parameter counts, and the totals below it."""
    rows = [(f"{layer.name} ({layer.kind})", _shape(layer.output_shape), _count(layer)) for layer in layers]
    widths = [
        max(minimum, *(len(row[column]) for row in (HEADINGS, *rows))) for column, minimum in enumerate(MINIMAL_WIDTHS)
    ]
    lines = [
        f'Model: "{name}"',
        _rule("┏━┳┓", widths),
        _row(HEADINGS, "┃", widths),
        _rule("┡━╇┩" if rows else "┗━┻┛", widths),
    ]
    for number, row in enumerate(rows, start=1):
        lines += [_row(row, "│", widths), _rule("├─┼┤" if number < len(rows) else "└─┴┘", widths)]
    return "\n".join([*lines, *_totals(layers)])


def _rule(characters: Sequence[str], widths: Sequence[int]) -> str:
    left, line, middle, right = characters
    return left + middle.join(line * (width + 2) for width in widths) + right


def _row(cells: tuple[str, str, str], bar: str, widths: Sequence[int]) -> str:
    layer, shape, count = cells
    return f"{bar} {layer:<{widths[0]}} {bar} {shape:<{widths[1]}} {bar} {count:>{widths[2]}} {bar}"


def _shape(shape: Shape | None) -> str:
    return "?" if shape is None else f"({', '.join(['None', *map(str, shape)])})"


def _count(layer: Layer) -> str:
    return f"{_parameters(layer):,}" if layer.built else "0 (unbuilt)"


def _parameters(layer: Layer, trainable_only: bool = False) -> int:
    weights = layer.weights().values()
    return sum(math.prod(weight.shape) for weight in weights if weight.requires_grad or not trainable_only)


def _totals(layers: Sequence[Layer]) -> list[str]:
    total = sum(_parameters(layer) for layer in layers)
    trainable = sum(_parameters(layer, trainable_only=True) for layer in layers)
    counts = {"Total": total, "Trainable": trainable, "Non-trainable": total - trainable}
    return [f" {title} params: {count:,} ({_size(count * BYTES_PER_PARAMETER)})" for title, count in counts.items()]


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.2f} {unit}"
        count /= 1024
    return f"{count:.2f} TB"
