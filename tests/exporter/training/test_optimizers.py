"""Each optimiser's and each loss's numbers beside Keras' own and beside formulas."""

import math

import keras
import numpy as np
import pytest
import torch
from torch import nn

from conveyor_exporter import losses, optimizers
from conveyor_exporter.optimizers import SGD, Adam, RMSprop

# Keras reads tensors through numpy in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = [1e-3, -2e-3, 5e-4, 1e-2, 0.0, -1e-3]  # small gradients, so that epsilon counts


def walk(optimizer):
    parameter = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float32))
    bound = optimizer.bind([parameter])
    for gradient in STEPS:
        parameter.grad = torch.tensor([gradient, -3 * gradient])
        bound.step()
    return parameter.detach().numpy()


def walk_in_keras(optimizer):
    variable = keras.Variable(np.array([0.5, -1.0], np.float32))
    optimizer.build([variable])
    for gradient in STEPS:
        optimizer.apply([keras.ops.convert_to_tensor(np.array([gradient, -3 * gradient], np.float32))])
    return keras.ops.convert_to_numpy(variable)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Adam", {}),
        ("Adam", {"learning_rate": 0.1, "epsilon": 1e-3, "beta_1": 0.8, "beta_2": 0.9}),
        ("Adam", {"amsgrad": True, "epsilon": 1e-3, "learning_rate": 0.1}),
        ("Adam", {"weight_decay": 0.1, "learning_rate": 0.1}),
        ("RMSprop", {}),
        ("RMSprop", {"learning_rate": 0.1, "rho": 0.8, "epsilon": 1e-4}),
        ("RMSprop", {"momentum": 0.9, "centered": True}),
        ("SGD", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    ],
)
def test_optimizers_are_those_of_keras(name, arguments):
    ours = {"Adam": Adam, "RMSprop": RMSprop, "SGD": SGD}[name](**arguments)
    theirs = getattr(keras.optimizers, name)(**arguments)
    np.testing.assert_allclose(walk(ours), walk_in_keras(theirs), rtol=1e-5)


def test_rmsprop_follows_its_formula():
    w, v, parameter = 1.0, 0.0, nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = RMSprop(learning_rate=0.1, epsilon=1e-3).bind([parameter])
    for gradient in STEPS:
        v = 0.9 * v + 0.1 * gradient**2
        w -= 0.1 * gradient / math.sqrt(v + 1e-3)
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    assert parameter.item() == pytest.approx(w, rel=1e-12)


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        (Adam, {"learning_rate": "0.1"}, "`learning_rate` must be a number above 0"),
        (Adam, {"beta_1": 1}, "`beta_1` must be a number from 0 to below 1"),
        (Adam, {"amsgrad": 1}, "`amsgrad` must be True or False"),
        (Adam, {"weight_decay": -1}, "`weight_decay`"),
        (SGD, {"momentum": 1.5}, "`momentum`"),
        (RMSprop, {"rho": -0.1}, "`rho`"),
        (RMSprop, {"epsilon": 0}, "`epsilon`"),
    ],
)
def test_wrong_settings_are_refused(recipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        recipe(**arguments)


def test_rmsprop_is_known_by_name():
    assert optimizers.get("RMSprop") == RMSprop()


LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 30.0, -30.0]], np.float32)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize(
    ("name", "labels", "settings"),
    [
        ("BinaryCrossentropy", [[1, 0, 1], [0, 1, 0]], {"label_smoothing": 0.2}),
        ("CategoricalCrossentropy", [[1, 0, 0], [0, 0, 1]], {"label_smoothing": 0.2}),
        ("CategoricalCrossentropy", [[1, 0, 0], [0, 0, 1]], {}),
        ("SparseCategoricalCrossentropy", [0, 2], {}),
    ],
)
def test_losses_are_those_of_keras(name, labels, settings, from_logits):
    predictions = LOGITS if from_logits else np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    labels = np.array(labels, np.float32)
    ours = getattr(losses, name)(from_logits=from_logits, **settings)
    theirs = getattr(keras.losses, name)(from_logits=from_logits, **settings)
    expected = float(keras.ops.convert_to_numpy(theirs(labels, predictions)))
    assert float(ours(torch.tensor(labels), torch.tensor(predictions))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("settings", [{"from_logits": "yes"}, {"label_smoothing": 1.0}, {"label_smoothing": "0.1"}])
def test_wrong_settings_of_a_loss_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        losses.BinaryCrossentropy(**settings)
