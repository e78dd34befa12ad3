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
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

WIDTH, DPI = 8.0, 100  # 800 pixels, the width of a page of text on most screens
BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette: told apart with any kind of colour blindness
MANY_CLASSES = 20  # with more, numbers inside a confusion matrix cannot be read
MOST_FILTERS = 32
GREY = {"cmap": "gray", "vmin": 0, "vmax": 1}


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
    titles = [f"is {_short(m.true)}\nsays {_short(m.predicted)}\n({m.probability:.0%} sure)" for m in mistakes]

    def draw(figure: Figure) -> None:
        _tiles(figure.subplots(), [_visible(mistake.picture) for mistake in mistakes], titles, columns, GREY, 0.42)

    return _png(draw, 2.0 * math.ceil(len(mistakes) / columns), max(2.0, WIDTH * columns / 6))


def filters(kernels: Array) -> bytes:
    """Draw kernels [height, width, channels, filters]; of several channels their mean."""
    flat = kernels.mean(axis=2)[..., :MOST_FILTERS]
    limit = float(np.abs(flat).max()) or 1.0

    def draw(figure: Figure) -> None:
        _colour_tiles(figure, flat, 8, {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}, "weight")

    return _png(draw, 0.3 + 1.05 * math.ceil(flat.shape[-1] / 8))


def activation_maps(picture: Array, maps: Array, title: str) -> bytes:
    """Draw a picture [height, width, channels], 0 to 1, and what filters answer to it, [height, width, filters]."""
    shown = maps[..., :MOST_FILTERS]
    scale = {"cmap": "cividis", "vmin": float(shown.min()), "vmax": float(shown.max())}

    def draw(figure: Figure) -> None:
        halves: Any = figure.subfigures(1, 2, width_ratios=(1, 3))
        _tiles(halves[0].subplots(), [_visible(picture)], [title], 1, GREY, 0.25)
        _colour_tiles(halves[1], shown, 6, scale, "answer of the filter")

    return _png(draw, max(2.3, 0.2 + 1.1 * math.ceil(shown.shape[-1] / 6)))


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


def _colour_tiles(figure: Any, values: Array, columns: int, scale: Mapping[str, Any], legend: str) -> None:
    """Draw [height, width, filters] as a tile a filter, with a bar that says what the colours mean."""
    axes, count = figure.subplots(), values.shape[-1]
    titles = [f"filter {number}" for number in range(count)]
    image = _tiles(axes, list(np.moveaxis(values, -1, 0)), titles, min(columns, count), scale, 0.24)
    figure.colorbar(image, ax=axes, shrink=0.8, label=legend, aspect=25)


def _tiles(
    axes: Axes, pictures: Sequence[Array], titles: Sequence[str], columns: int, scale: Mapping[str, Any], band: float
) -> AxesImage:
    """Draw small pictures in rows, each 0.92 wide in a cell of 1, with its title in a band above it; return the last.

    One pair of axes for all: a pair for each would take a tenth of a second each.
    """
    height = 0.92 * pictures[0].shape[0] / pictures[0].shape[1]
    for number, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left, top = float(number % columns), number // columns * (height + band) + band
        image = axes.imshow(picture, extent=(left, left + 0.92, top + height, top), **scale)
        axes.add_patch(Rectangle((left, top), 0.92, height, fill=False, edgecolor="0.4", linewidth=0.6))
        axes.text(left + 0.46, top - 0.03, title, ha="center", va="bottom", fontsize=8)
    rows = math.ceil(len(pictures) / columns)
    axes.set(xlim=(-0.02, columns - 0.06), ylim=(rows * (height + band) + 0.02, 0))
    axes.set_axis_off()
    return image


def _visible(picture: Array) -> Array:
    """Return [height, width, channels] as what can be shown: grey [height, width], or colours as they are."""
    return picture if picture.shape[2] in (3, 4) else picture.mean(axis=2)


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
