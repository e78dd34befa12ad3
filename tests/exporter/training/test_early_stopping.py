import math

import numpy as np
import pytest
import torch

from conveyor_exporter.layers import Dense
from conveyor_exporter.models import Sequential
from conveyor_exporter.training.early_stopping import EarlyStopping, Watch


def run(rule, values):
    """Return the epochs that ran and what was seen, for a training with these values of the watched name."""
    watch = Watch()
    for epoch, value in enumerate(values):
        if watch.observe(rule, epoch, {rule.monitor: value}, lambda: {"w": torch.tensor(float(epoch))}):  # noqa: B023
            return epoch + 1, watch
    return len(values), watch


@pytest.mark.parametrize(
    ("arguments", "values", "epochs", "best"),
    [
        ({"patience": 2}, [3, 2, 2, 2, 1], 4, 1),  # the epoch that is the second without a better value is the last
        ({"patience": 2}, [3, 2, 2, 1, 2, 2], 6, 3),
        ({"patience": 0}, [3, 4, 1], 2, 0),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.6, 2.5], 2, 0),
        ({"patience": 1, "monitor": "val_accuracy"}, [0.1, 0.5, 0.4, 0.9], 3, 1),
        ({"patience": 1, "monitor": "cost", "mode": "max"}, [1, 2, 1, 9], 3, 1),
        ({"patience": 1, "start_from_epoch": 2}, [1, 9, 8, 7, 7], 5, 3),
        ({"patience": 3}, [math.nan, math.nan, 1, 2], 4, 2),
        ({"patience": 1}, [math.nan, math.nan], 2, 0),
    ],
)
def test_stops_when_nothing_gets_better(arguments, values, epochs, best):
    ran, watch = run(EarlyStopping(**arguments), values)
    assert (ran, watch.best_epoch) == (epochs, best)
    assert watch.best_weights["w"] == best


def test_keeps_no_weights_that_are_not_to_be_restored():
    _, watch = run(EarlyStopping(restore_best_weights=False), [1, 2])
    assert watch.best_weights == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"monitor": 3}, "`monitor`"),
        ({"patience": -1}, "`patience` must be a whole number from 0"),
        ({"start_from_epoch": 1.5}, "`start_from_epoch`"),
        ({"min_delta": "0"}, "`min_delta`"),
        ({"mode": "up"}, "`mode` must be 'auto', 'min' or 'max'"),
        ({"monitor": "cost"}, "mode='max' or mode='min'"),
        ({"restore_best_weights": 1}, "`restore_best_weights`"),
    ],
)
def test_wrong_rules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**arguments)


def diverging():
    """A model that gets worse with every epoch on the data it is validated with."""
    x = np.linspace(-1, 1, 40).reshape(20, 2)
    model = Sequential([Dense(1, input_shape=(2,), kernel_initializer="zeros")])
    model.compile(optimizer="sgd", loss="mse")
    return model, x, x.sum(1), (x, -x.sum(1))


def test_fit_stops_and_gives_the_best_weights_back(capsys):
    model, x, y, worse = diverging()
    history = model.fit(x, y, epochs=9, validation_data=worse, early_stopping=EarlyStopping(patience=3))
    assert history.epoch == [0, 1, 2, 3]
    assert history.best_epoch == 0
    assert "stopped early: val_loss has not got better" in capsys.readouterr().out
    assert model.evaluate(*worse, verbose=0) == pytest.approx(history.history["val_loss"][0])
    assert history.history["val_loss"][-1] > history.history["val_loss"][0]


def test_a_value_that_nothing_measures_is_an_error_before_the_first_epoch():
    model, x, y, _ = diverging()
    with pytest.raises(ValueError, match="Give validation data"):
        model.fit(x, y, early_stopping=EarlyStopping())
    with pytest.raises(ValueError, match="Did you mean 'val_loss'"):
        model.fit(x, y, validation_split=0.5, early_stopping=EarlyStopping(monitor="vall_loss"))


def test_validation_split_takes_the_last_samples():
    model, x, y, _ = diverging()
    history = model.fit(x, y, validation_split=0.3, verbose=0)
    assert history.history["val_loss"] == [pytest.approx(model.evaluate(x[14:], y[14:], verbose=0))]


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.999, "a", True])
def test_a_split_that_leaves_nothing_is_refused(share):
    model, x, y, _ = diverging()
    with pytest.raises(ValueError, match="validation_split"):
        model.fit(x, y, validation_split=share, verbose=0)
