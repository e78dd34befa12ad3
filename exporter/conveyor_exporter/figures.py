"""Owns the pictures of a model card, as PNG bytes from arrays: the same bytes for the same arrays. Knows no model."""

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

WIDTH, DPI = 8.0, 100  # 800 pixels, the width of a page of text on most screens
BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette: told apart with any kind of colour blindness
MANY_CLASSES = 20  # with more, numbers inside a confusion matrix cannot be read
MOST_FILTERS = 32


@dataclass(frozen=True)
class Mistake:
    """A picture that the model takes for something else.

    Attributes:
        picture: [height, width, channels], 0 to 1.
        true: the name of its class.
        predicted: the name of the class that the model says.
        probability: how sure it is, 0 to 1.
    """

    picture: Array
    true: str
    predicted: str
    probability: float


def learning_curves(history: Mapping[str, Sequence[float]], best_epoch: int | None) -> bytes:
    """Draw the loss and the first metric over the epochs, of training and validation.

    Args:
        history: values an epoch by name, as `fit` returns them.
        best_epoch: the epoch, from 0, whose weights the model has, where it is not the last.
    """
    metrics = [name for name in history if not name.startswith("val_") and name != "loss"]
    names = ["loss", *metrics[:1]]

    def draw(figure: Figure) -> None:
        grid: Any = figure.subplots(1, len(names), squeeze=False)
        for axes, name in zip(grid[0], names, strict=True):
            _curve(axes, name, history, best_epoch)

    return _png(draw, 3.4)


def confusion_matrix(counts: NDArray[np.int64], labels: Sequence[str]) -> bytes:
    """Draw which classes are taken for which: a row a true class, a column an answer, counts [classes, classes]."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
        bar.ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
        axes.set(xlabel="what the model says", ylabel="what it is", title="Test pictures by class and answer")
        if len(labels) > MANY_CLASSES:
            return
        names = [_short(label) for label in labels]
        tilted = max(map(len, names)) * len(names) > 60
        axes.set_xticks(range(len(names)), names, rotation=45 if tilted else 0, ha="right" if tilted else "center")
        axes.set_yticks(range(len(names)), names)
        size = 14 if len(names) < 5 else 9
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=size)

    side = min(3.5 + 0.3 * len(labels), 6.5)
    return _png(draw, side, min(side + 1.5, WIDTH))


def worst_mistakes(mistakes: Sequence[Mistake]) -> bytes:
    """Draw pictures with their true class and what the model says instead, and how sure it is."""
    columns = min(6, len(mistakes))

    def draw(figure: Figure) -> None:
        for axes, mistake in zip(_grid(figure, len(mistakes), columns), mistakes, strict=False):
            _picture(axes, mistake.picture)
            axes.set_title(
                f"is {_short(mistake.true)}\nsays {_short(mistake.predicted)}\n({mistake.probability:.0%} sure)",
                fontsize=9,
            )

    return _png(draw, 2.1 * math.ceil(len(mistakes) / columns), max(2.0, WIDTH * columns / 6))


def filters(kernels: Array) -> bytes:
    """Draw kernels [height, width, channels, filters]; of several channels their mean."""
    flat = kernels.mean(axis=2)[..., :MOST_FILTERS]
    limit = float(np.abs(flat).max()) or 1.0
    count = flat.shape[-1]

    def draw(figure: Figure) -> None:
        grid = _grid(figure, count, columns=8)
        for number, axes in enumerate(grid[:count]):
            image = axes.imshow(flat[..., number], cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set_title(f"filter {number}", fontsize=8)
        figure.colorbar(image, ax=grid, shrink=0.8, label="weight", aspect=30)

    return _png(draw, 0.3 + 1.1 * math.ceil(count / 8))


def activation_maps(picture: Array, maps: Array, title: str) -> bytes:
    """Draw a picture [height, width, channels], 0 to 1, and what filters answer to it, [height, width, filters]."""
    shown = maps[..., :MOST_FILTERS]
    count = shown.shape[-1]

    def draw(figure: Figure) -> None:
        halves: Any = figure.subfigures(1, 2, width_ratios=(1, 3))
        left, right = halves
        axes = left.subplots()
        _picture(axes, picture)
        axes.set_title(title, fontsize=9)
        grid = _grid(right, count, columns=min(6, count))
        for number, cell in enumerate(grid[:count]):
            image = cell.imshow(shown[..., number], cmap="cividis", vmin=float(shown.min()), vmax=float(shown.max()))
            cell.set_title(f"filter {number}", fontsize=8)
        right.colorbar(image, ax=grid, shrink=0.8, label="answer of the filter", aspect=30)

    return _png(draw, max(2.3, 0.2 + 1.1 * math.ceil(count / 6)))


def _curve(axes: Axes, name: str, history: Mapping[str, Sequence[float]], best_epoch: int | None) -> None:
    epochs = range(1, len(history[name]) + 1)
    marker = "o" if len(epochs) < 30 else None
    axes.plot(epochs, history[name], color=BLUE, marker=marker, markersize=4, label="training")
    if validated := history.get(f"val_{name}"):
        axes.plot(epochs, validated, color=ORANGE, marker=marker, markersize=4, linestyle="--", label="validation")
    if best_epoch is not None and best_epoch + 1 < len(epochs):
        axes.axvline(best_epoch + 1, color="0.4", linestyle=":", label="weights kept")
    axes.set(xlabel="epoch", ylabel=name, title=f"{name} by epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


def _grid(figure: Any, count: int, columns: int) -> list[Axes]:
    """Return axes without ticks for `count` small pictures; those that are left over are empty."""
    rows = max(1, math.ceil(count / columns))
    grid: list[Axes] = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for number, axes in enumerate(grid):
        axes.set(xticks=[], yticks=[])
        axes.set_visible(number < count)
    return grid


def _picture(axes: Axes, picture: Array) -> None:
    if picture.shape[2] not in (1, 3, 4):
        picture = picture.mean(axis=2, keepdims=True)
    axes.imshow(picture if picture.shape[2] > 1 else picture[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def _short(label: str) -> str:
    return label if len(label) <= 16 else f"{label[:15]}…"


def _png(draw: Callable[[Figure], None], height: float, width: float = WIDTH) -> bytes:
    """Return what `draw` draws; nothing of the user's settings, of the clock or of the program's version is in it."""
    content = io.BytesIO()
    with style.context("default"), matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a label in a script that the font lacks
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        draw(figure)
        figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
