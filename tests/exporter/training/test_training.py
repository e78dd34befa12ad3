import math

import numpy as np
import pytest
import torch
from torch import nn

from conveyor_exporter import losses, metrics
from conveyor_exporter.layers import Conv2D, Dense, Flatten
from conveyor_exporter.models import Sequential
from conveyor_exporter.optimizers import SGD, Adam


def test_the_tutorial_runs(capsys):
    X = np.random.rand(100, 28, 28, 1)
    y = np.random.randint(0, 2, size=(100,))
    model = Sequential()
    model.add(Conv2D(filters=16, kernel_size=(3, 3), activation="relu", input_shape=(28, 28, 1)))
    model.add(Flatten())
    model.add(Dense(1, activation="sigmoid"))
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    model.summary()
    assert "Total params: 10,977" in capsys.readouterr().out
    history = model.fit(X, y, epochs=2)
    assert list(history.history) == ["accuracy", "loss"]
    assert history.epoch == [0, 1]
    assert capsys.readouterr().out.startswith("Epoch 1/2  accuracy 0.")
    loss, accuracy = model.evaluate(X, y, verbose=1)
    assert f"accuracy {accuracy:.4f}  loss {loss:.4f}" in capsys.readouterr().out
    predictions = model.predict(X)
    assert predictions.shape == (100, 1)
    assert predictions.dtype == np.float32
    assert accuracy == pytest.approx(((predictions[:, 0] > 0.5) == y).mean())
    assert loss == pytest.approx(bce(y, predictions[:, 0].astype(np.float64)), abs=1e-5)


def bce(y, p):
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()


def tensor(values):
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize(("y", "p", "loss"), [(1, 0, 16.118), (0, 1, 15.942), (1, 1, 0), (1, 0.5, math.log(2))])
def test_binary_crossentropy_clips_as_keras_does(y, p, loss):
    assert float(losses.binary_crossentropy(tensor([y]), tensor([[p]]))) == pytest.approx(loss, abs=1e-3)


def test_class_numbers_and_one_hot_labels_agree():
    p = tensor([[0.2, 0.3, 0.5], [0.4, 0.4, 0.4]])  # the second is divided by its sum
    expected = -(math.log(0.5) + math.log(1 / 3)) / 2
    one_hot = tensor([[0, 0, 1], [1, 0, 0]])
    for loss in (
        losses.sparse_categorical_crossentropy(tensor([2, 0]), p),
        losses.sparse_categorical_crossentropy(tensor([[2], [0]]), p),
        losses.categorical_crossentropy(one_hot, p),
    ):
        assert float(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (losses.sparse_categorical_crossentropy, [3, 0], r"must lie in 0..2"),
        (losses.sparse_categorical_crossentropy, [[0, 0, 1], [1, 0, 0]], "categorical_crossentropy"),
        (losses.categorical_crossentropy, [2, 0], "sparse_categorical_crossentropy"),
        (losses.binary_crossentropy, [[0, 5, 1], [1, 0, 0]], r"must lie in 0..1"),
    ],
)
def test_labels_that_do_not_fit_the_loss_are_refused(loss, y, message):
    with pytest.raises(ValueError, match=message):
        loss(tensor(y), torch.full((2, 3), 1 / 3))


@pytest.mark.parametrize(
    ("y", "p", "accuracy"),
    [
        ([1, 0, 1], [[0.6], [0.5], [0.5]], 2 / 3),  # exactly 0.5 counts as 0
        ([[1], [0]], [[0.6], [0.6]], 1 / 2),
        ([1, 0], [[0.1, 0.9], [0.2, 0.8]], 1 / 2),
        ([[1], [0]], [[0.1, 0.9], [0.2, 0.8]], 1 / 2),
        ([[0, 1], [0, 1]], [[0.1, 0.9], [0.2, 0.8]], 1),
    ],
)
def test_accuracy_is_the_one_that_fits_the_labels(y, p, accuracy):
    assert float(metrics.accuracy(tensor(y), tensor(p))) == pytest.approx(accuracy)


def test_adam_is_that_of_keras():
    generator = np.random.default_rng(0)
    w = generator.normal(size=5)
    parameter = nn.Parameter(torch.tensor(w))
    optimizer = Adam(learning_rate=0.01, epsilon=1e-3).bind([parameter])
    m, v = np.zeros(5), np.zeros(5)
    for t in range(1, 8):
        gradient = generator.normal(size=5) * 1e-3  # small, so that epsilon counts
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        w = w - 0.01 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-3)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_that_of_keras(nesterov):
    w, velocity = 1.0, 0.0
    parameter = nn.Parameter(torch.tensor(w, dtype=torch.float64))
    optimizer = SGD(learning_rate=0.1, momentum=0.9, nesterov=nesterov).bind([parameter])
    for gradient in (1.0, -0.5, 2.0):
        velocity = 0.9 * velocity - 0.1 * gradient
        w += 0.9 * velocity - 0.1 * gradient if nesterov else velocity
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    assert parameter.item() == pytest.approx(w)


def test_optimizers_refuse_a_step_size_of_zero():
    with pytest.raises(ValueError, match="above 0"):
        Adam(learning_rate=0)


def line_model(**compiled):
    model = Sequential([Dense(1, input_shape=(2,), kernel_initializer="zeros")])
    model.compile(**({"optimizer": SGD(learning_rate=0.1), "loss": "mse"} | compiled))
    return model


def line_data():
    x = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    return x, x @ [2.0, -1.0] + 0.5


def test_fit_finds_a_line_and_reports_validation():
    model, (x, y) = line_model(metrics=[]), line_data()
    history = model.fit(x, y, epochs=150, verbose=0, validation_data=(x, y)).history
    assert list(history) == ["loss", "val_loss"]
    assert history["val_loss"][-1] < 1e-4 < history["val_loss"][0]
    assert model.evaluate(x, y) == pytest.approx(history["val_loss"][-1])
    np.testing.assert_allclose(model.get_weights()[0][:, 0], [2, -1], atol=0.05)


def test_the_epoch_average_weighs_batches_by_their_samples():
    model = line_model(metrics=[mean_label])
    x, y = np.zeros((5, 2)), np.array([0, 0, 0, 0, 10.0])
    history = model.fit(x, y, batch_size=4, shuffle=False, verbose=0).history
    assert history["mean_label"] == [pytest.approx(2)]
    assert model.evaluate(x, y, batch_size=4, return_dict=True)["mean_label"] == pytest.approx(2)


def mean_label(y_true, y_pred):
    return y_true.mean()


def test_the_same_seed_gives_the_same_weights():
    def train():
        torch.manual_seed(4)
        model = line_model(optimizer="adam")
        model.fit(*line_data(), epochs=2, verbose=0)
        return model.get_weights()[0]

    np.testing.assert_array_equal(train(), train())


def test_a_second_fit_goes_on_with_the_optimizer_of_the_first():
    x, y = line_data()
    once, twice = line_model(optimizer="adam"), line_model(optimizer="adam")
    once.fit(x, y, epochs=4, shuffle=False, verbose=0)
    for _ in range(2):
        twice.fit(x, y, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(once.get_weights()[0], twice.get_weights()[0])


def test_a_layer_added_after_training_is_trained_too():
    model, (x, y) = line_model(), line_data()
    model.fit(x, y, verbose=0)
    model.add(Dense(1, kernel_initializer="ones"))
    model.fit(x, y, verbose=0)
    assert model.get_weights()[2] != 1


def test_verbose_0_is_silent(capsys):
    line_model().fit(*line_data(), verbose=0)
    assert capsys.readouterr() == ("", "")


def test_predict_leaves_the_mode_as_it_was():
    model = line_model()
    model.train()
    model.predict(line_data()[0])
    assert model.training
    assert all(layer.training for layer in model.layers)


def test_predict_takes_lists_and_refuses_text():
    assert line_model().predict([[1, 2], [3, 4]]).shape == (2, 1)
    assert line_model().predict(np.zeros((0, 2))).shape == (0, 1)
    with pytest.raises(ValueError, match="array of numbers"):
        line_model().predict([["a", "b"]])
