"""Owns what a user sees while a model trains: a bar on a terminal, a line an epoch elsewhere; knows no model."""

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def in_words(values: Mapping[str, float]) -> str:
    """Return metric values as one line: `accuracy 0.9312  loss 0.2301`."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())


class TrainingProgress:
    """Shows the epochs of a training; a context manager that leaves the terminal as it was, whatever happens.

    Args:
        console: where to write.
        epochs: how many epochs there will be.
        steps: how many batches an epoch has.
        visible: False shows nothing at all.
        done: epochs that an earlier run has done already.
    """

    def __init__(self, console: Console, epochs: int, steps: int, visible: bool = True, done: int = 0) -> None:
        self._console, self._epochs, self._steps, self._visible = console, epochs, steps, visible
        self._whole = Progress(disable=True)  # counts the steps of all epochs, so that the time left is that of all
        self._all_steps = self._whole.add_task("", total=epochs * steps, completed=done * steps)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            _TimeLeft(self._whole),
            TextColumn("{task.fields[values]}"),
            console=console,
            disable=not (visible and console.is_terminal),
        )
        self._task = self._bar.add_task("", total=steps, values="", visible=False)

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start_epoch(self, epoch: int) -> None:
        """Begin the bar of epoch number `epoch`, counted from 1."""
        self._bar.reset(self._task, description=f"Epoch {epoch}/{self._epochs}", visible=True, values="")

    def step(self, values: Mapping[str, float]) -> None:
        """Count one batch, and show the values so far."""
        self._whole.advance(self._all_steps)
        self._bar.update(self._task, advance=1, values=in_words(values))

    def end_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Leave one line behind for the epoch."""
        self._bar.update(self._task, visible=False)
        if self._visible:
            self._console.print(f"Epoch {epoch}/{self._epochs}  {in_words(values)}", highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Leave a line behind that is no epoch."""
        if self._visible:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _TimeLeft(ProgressColumn):
    """Shows the time that all epochs together still need, at most: an early stop makes it shorter."""

    def __init__(self, whole: Progress) -> None:
        super().__init__()
        self._whole, self._column = whole, TimeRemainingColumn()

    def render(self, task: Task) -> Text:
        return self._column.render(self._whole.tasks[0])
