"""Our layers against Keras' own, with the same weights and arguments."""

import inspect
import itertools

import keras
import numpy as np
import pytest
import torch

from conveyor_exporter import activations, initializers, layers
from conveyor_exporter.layers.options import KERAS_ONLY

SHAPE = (7, 6, 4)

CASES = [
    *(
        ("Conv2D", {"filters": 4, "kernel_size": k, "padding": p, **more})
        for k, p, more in itertools.product(
            [2, (3, 1)], ["valid", "same"], [{"strides": 2}, {"dilation_rate": 2}, {"groups": 2, "use_bias": False}]
        )
    ),
    *(
        (kind, {**own, "kernel_size": 3, "padding": p, "depth_multiplier": 2, **more})
        for (kind, own), p, more in itertools.product(
            [("DepthwiseConv2D", {}), ("SeparableConv2D", {"filters": 5, "activation": "silu"})],
            ["valid", "same"],
            [{}, {"strides": 2}, {"dilation_rate": 2}, {"use_bias": False}],
        )
    ),
    *(
        ("MaxPooling2D", {"pool_size": k, "strides": s, "padding": p})
        for k, s, p in itertools.product([2, 3], [None, 1, 2], ["valid", "same"])
    ),
    ("AveragePooling2D", {"pool_size": 2}),  # its `same` is wrong in Keras' torch backend
    ("AveragePooling2D", {"pool_size": 3, "strides": (2, 1)}),
    ("GlobalMaxPooling2D", {}),
    ("GlobalAveragePooling2D", {"keepdims": True}),
    ("BatchNormalization", {}),
    ("BatchNormalization", {"epsilon": 0.1, "center": False}),
    ("BatchNormalization", {"axis": 3, "scale": False}),
    ("Activation", {"activation": "gelu"}),
    *(
        ("ReLU", {"max_value": m, "negative_slope": s, "threshold": t})
        for m, s, t in itertools.product([None, 1.0], [0, 0.2], [0, 0.5])
    ),
    ("LeakyReLU", {}),
    ("Softmax", {}),
    ("Softmax", {"axis": 1}),
    ("Dropout", {"rate": 0.5}),
    ("Rescaling", {"scale": 0.5, "offset": -1.0}),
    ("Rescaling", {"scale": [1.0, 2.0, 3.0, 4.0]}),
    ("ZeroPadding2D", {}),
    ("ZeroPadding2D", {"padding": ((1, 0), (2, 3))}),
    ("Reshape", {"target_shape": (3, -1)}),
    ("Flatten", {}),
    ("Dense", {"units": 3, "activation": "softplus"}),
]


@pytest.mark.parametrize(("kind", "arguments"), CASES, ids=str)
def test_a_layer_is_that_of_keras(kind, arguments):
    theirs, ours = getattr(keras.layers, kind)(**arguments), getattr(layers, kind)(**arguments).eval()
    assert theirs.name.startswith(ours.base_name)
    x = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    ours.build(SHAPE)
    theirs.build((None, *SHAPE))
    generator = np.random.default_rng(1)
    weights = [generator.uniform(0.2, 1, tuple(weight.shape)).astype(np.float32) for weight in theirs.weights]
    for weight, values in zip(theirs.weights, weights, strict=True):
        weight.assign(values)
    ours.set_weights(weights)
    expected = theirs(x, training=False).detach().numpy()
    np.testing.assert_allclose(ours(torch.from_numpy(x)).detach().numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in CASES}))
def test_arguments_have_the_names_order_and_defaults_of_keras(kind):
    theirs = inspect.signature(getattr(keras.layers, kind).__init__).parameters
    ours = dict(inspect.signature(getattr(layers, kind)).parameters)
    options = ours.pop("options")
    assert options.kind is inspect.Parameter.VAR_KEYWORD
    wanted = [name for name in theirs if name not in {"self", "kwargs", "name", *KERAS_ONLY}]
    assert list(ours) == wanted
    required = [name for name in wanted if theirs[name].default is inspect.Parameter.empty]
    for name in set(wanted) - set(required):
        assert ours[name].default == theirs[name].default, name
    needed = [name for name in ours if ours[name].default is inspect.Parameter.empty]
    assert set(needed) <= set(required)


@pytest.mark.parametrize("name", sorted(activations.NAMED))
def test_an_activation_is_that_of_keras(name):
    x = np.random.default_rng(0).normal(0, 3, size=(40, 8)).astype(np.float32)
    x[0] = [-1, -0.5, 0, 0.5, 1, 6, -100, 100]
    if name == "sparsemax":  # of Keras up to 3.15.1 it is right only where one value is by far the largest
        x = x[np.diff(np.sort(x)[:, -2:])[:, 0] > 1]
    expected = keras.activations.get(name)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(activations.get(name, "Dense")(torch.from_numpy(x)).numpy(), expected, atol=2e-6)


def test_every_activation_of_keras_is_known_or_explained():
    known = {*activations.NAMED, *activations.NOT_BY_NAME}
    functions = {name for name in dir(keras.activations) if not name.startswith("_")}
    assert functions - known == {"deserialize", "get", "serialize"}


@pytest.mark.parametrize("name", sorted(initializers.NAMED))
def test_an_initializer_draws_as_that_of_keras(name):
    shape = (3, 3, 40, 60)
    keras.utils.set_random_seed(1)
    theirs = keras.initializers.get(name)(shape).numpy()
    torch.manual_seed(0)
    ours = initializers.get(name, "kernel_initializer", "Conv2D")(shape).numpy()
    assert ours.shape == shape
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    # Not the maximum: Keras on torch lets a few values lie beyond the cut.
    assert np.quantile(np.abs(ours), 0.999) == pytest.approx(np.quantile(np.abs(theirs), 0.999), rel=0.05)


def test_batch_normalization_learns_as_that_of_keras():
    ours, theirs = layers.BatchNormalization(), keras.layers.BatchNormalization()
    generator = np.random.default_rng(0)
    for _ in range(5):
        x = torch.from_numpy(generator.normal(3, 2, (4, 2, 2, 3)).astype(np.float32))
        np.testing.assert_allclose(ours(x).detach(), theirs(x, training=True).detach(), atol=1e-5)
    for mine, other in zip(ours.get_weights(), theirs.weights, strict=True):
        np.testing.assert_allclose(mine, other.value.detach().numpy(), atol=1e-5)
