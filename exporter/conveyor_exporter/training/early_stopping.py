"""Owns the decision when a training has stopped getting better, by Keras' rules; knows no model and no file."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from conveyor_exporter.arguments import did_you_mean
from conveyor_exporter.errors import InvalidArgument

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop before the last epoch; the arguments are those of Keras' callback.

    Attributes:
        monitor: name of the value to watch, as the history has it.
        min_delta: by how much it must get better, to count.
        patience: how many epochs in a row it may fail to.
        mode: `min`, `max`, or `auto`: a name that ends in `loss` shall fall, one that ends in `accuracy` shall rise.
        restore_best_weights: whether the model ends with the weights of its best epoch. Keras' default is False.
        start_from_epoch: epochs, from 0, before this one are not watched.
    """

    monitor: str = "val_loss"
    min_delta: float = 0.0
    patience: int = 0
    mode: str = "auto"
    restore_best_weights: bool = True
    start_from_epoch: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.monitor, str):
            raise InvalidArgument(f"EarlyStopping: `monitor` must be a name such as 'val_loss', got {self.monitor!r}.")
        for name in ("patience", "start_from_epoch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidArgument(f"EarlyStopping: `{name}` must be a whole number from 0, got {value!r}.")
        if isinstance(self.min_delta, bool) or not isinstance(self.min_delta, int | float) or self.min_delta < 0:
            raise InvalidArgument(f"EarlyStopping: `min_delta` must be a number from 0, got {self.min_delta!r}.")
        if not isinstance(self.restore_best_weights, bool):
            raise InvalidArgument(
                f"EarlyStopping: `restore_best_weights` must be True or False, got {self.restore_best_weights!r}."
            )
        if self.mode not in ("auto", "min", "max"):
            raise InvalidArgument(f"EarlyStopping: `mode` must be 'auto', 'min' or 'max', got {self.mode!r}.")
        if self.mode == "auto" and not self.monitor.endswith(("loss", "accuracy", "acc")):
            raise InvalidArgument(
                f"EarlyStopping: whether {self.monitor!r} shall rise or fall cannot be told from its name; "
                "give mode='max' or mode='min'."
            )

    @property
    def rises(self) -> bool:
        """Whether a larger value is better."""
        return self.mode == "max" or (self.mode == "auto" and not self.monitor.endswith("loss"))

    def check(self, names: list[str]) -> None:
        """Accept a training that measures these values.

        Raises:
            InvalidArgument: the watched value is not among them.
        """
        if self.monitor not in names:
            raise InvalidArgument(
                f"EarlyStopping: nothing measures `monitor`={self.monitor!r}; there are {', '.join(names)}."
                + (
                    " Give validation data, or a validation split."
                    if self.monitor.removeprefix("val_") in names
                    else did_you_mean(self.monitor, names)
                )
            )


@dataclass
class Watch:
    """What early stopping has seen so far; part of a checkpoint.

    Attributes:
        best: the best value.
        best_epoch: the epoch that had it, from 0.
        wait: epochs in a row that were not better.
        best_weights: the weights after the best epoch; empty when they are not to be restored.
    """

    best: float | None = None
    best_epoch: int | None = None
    wait: int = 0
    best_weights: Weights = field(default_factory=dict)

    def observe(
        self,
        rule: EarlyStopping,
        epoch: int,
        values: Mapping[str, float],
        weights: Callable[[], Mapping[str, torch.Tensor]],
    ) -> bool:
        """Take note of an epoch, counted from 0, and tell whether the training shall stop.

        Args:
            rule: what counts as better, and how long to wait for it.
            epoch: its number.
            values: what was measured after it.
            weights: gives the model's weights as they are now; they are copied.
        """
        if epoch < rule.start_from_epoch:
            return False
        value = values[rule.monitor]
        self.wait += 1
        if better := self._is_better(rule, value):
            self.best, self.wait = value, 0
        if better or self.best_epoch is None:  # a first value that is nan is the best that there is
            self.best_epoch = epoch
            if rule.restore_best_weights:
                self.best_weights = copy.deepcopy(dict(weights()))
        return not better and self.wait >= rule.patience and epoch > 0

    def _is_better(self, rule: EarlyStopping, value: float) -> bool:
        if self.best is None:
            return value == value  # unlike Keras: nan, which nothing is better than, is no best value
        return value - rule.min_delta > self.best if rule.rises else value + rule.min_delta < self.best
