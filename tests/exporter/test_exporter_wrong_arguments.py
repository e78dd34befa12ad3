"""What Keras raises, we raise, at construction and with a message that says what to do."""

import pytest
import torch

from conveyor_exporter.errors import ExporterError
from conveyor_exporter.layers import Conv2D, Dense, Flatten
from conveyor_exporter.models import Sequential

CONV2D = [
    ({"filters": 0}, ValueError, "`filters` must be a positive integer, got 0"),
    ({"filters": -1}, ValueError, "got -1"),
    ({"filters": 2.5}, ValueError, "got 2.5"),
    ({"filters": "16"}, TypeError, "got '16'"),
    ({"filters": True}, TypeError, "got True"),
    ({"kernel_size": 0}, ValueError, "`kernel_size` must be a positive integer or a tuple of 2"),
    ({"kernel_size": (3,)}, ValueError, r"got \(3,\)"),
    ({"kernel_size": (3, 3, 3)}, ValueError, r"got \(3, 3, 3\)"),
    ({"kernel_size": "3"}, ValueError, "got '3'"),
    ({"kernel_size": 2.5}, ValueError, "got 2.5"),
    ({"kernel_size": (2.5, 2)}, ValueError, r"got \(2.5, 2\)"),
    ({"kernel_size": True}, ValueError, "got True"),
    ({"strides": 0}, ValueError, "`strides`"),
    ({"strides": 2, "dilation_rate": 2}, ValueError, "cannot both be above 1"),
    ({"padding": "full"}, ValueError, "must be 'valid' or 'same', got 'full'"),
    ({"padding": "causal"}, ValueError, "got 'causal'"),
    ({"padding": "smae"}, ValueError, "Did you mean 'same'"),
    ({"padding": 1}, TypeError, "got 1"),
    ({"padding": (1, 1)}, TypeError, r"got \(1, 1\)"),
    ({"activation": "foo"}, ValueError, "one of celu, elu, exponential"),
    ({"activation": "rleu"}, ValueError, "Did you mean 'relu'"),
    ({"activation": 3}, ValueError, "got 3"),
    ({"groups": 0}, ValueError, "`groups`"),
    ({"groups": 3, "filters": 4}, ValueError, "filters=4 cannot be split into groups=3"),
    ({"use_bias": "no"}, TypeError, "must be True or False"),
    ({"kernel_initializer": "glorot_unifrm"}, ValueError, "Did you mean 'glorot_uniform'"),
    ({"foo": 1}, ValueError, "unknown argument `foo`"),
    ({"kernal_size": 1}, ValueError, "Did you mean 'kernel_size'"),
    ({"kernel_regularizer": "l2"}, ValueError, "not supported here"),
    ({"data_format": "channels_first"}, ValueError, "'channels_last'"),
    ({"input_shape": 28}, ValueError, "cannot read 28"),
    ({"input_shape": (28, 28)}, ValueError, r"add the channel: \(28, 28, 1\)"),
    ({"input_shape": (None, None, 1)}, ValueError, "every axis of one sample as a positive integer"),
    ({"input_shape": (2, 2, 1)}, ValueError, "does not fit into an image"),
    ({"input_shape": (9, 9, 3), "groups": 2, "filters": 4}, ValueError, "3 input channels cannot be split"),
    ({"name": "a/b"}, ValueError, "without '.' and '/'"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), CONV2D, ids=lambda value: str(value)[:40])
def test_conv2d_refuses(arguments, kind, message):
    with pytest.raises(kind, match=message) as caught:
        Sequential([Conv2D(**({"filters": 4, "kernel_size": 3} | arguments))])
    assert isinstance(caught.value, ExporterError)
    assert "Conv2D" in str(caught.value)


def test_conv2d_needs_its_two_arguments():
    with pytest.raises(TypeError, match="missing 2 required positional arguments"):
        Conv2D()


@pytest.mark.parametrize(("units", "kind"), [(0, ValueError), (1.5, ValueError), ("a", ValueError), ("a", TypeError)])
def test_dense_refuses(units, kind):
    with pytest.raises(kind, match="`units` must be a positive integer"):
        Dense(units)


@pytest.mark.parametrize("arguments", [{"data_format": "channels_first"}, {"units": 3}])
def test_flatten_refuses(arguments):
    with pytest.raises(ValueError, match="Flatten"):
        Flatten(**arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((28, 28, 1), "Add the batch axis"),
        ((1, 28, 28, 3), r"expects inputs of shape \[batch, 28, 28, 1\], got \[1, 28, 28, 3\]"),
        ((28, 28), r"got \[28, 28\]"),
    ],
)
def test_inputs_of_another_shape_are_refused(tutorial_network, shape, message):
    with pytest.raises(ValueError, match=message):
        tutorial_network(torch.zeros(shape))
    with pytest.raises(ValueError, match=message):
        tutorial_network.layers[0](torch.zeros(shape))


def test_an_unbuilt_layer_asks_for_the_batch_axis():
    with pytest.raises(ValueError, match="add the batch axis"):
        Conv2D(4, 3)(torch.zeros(28, 28, 1))
    with pytest.raises(ValueError, match="Add the batch axis"):
        Dense(4)(torch.zeros(28))


def two_layers(**compiled):
    model = Sequential([Flatten(input_shape=(2, 2)), Dense(1)])
    model.compile(**({"optimizer": "adam", "loss": "mse"} | compiled))
    return model


@pytest.mark.parametrize(
    ("compiled", "message"),
    [
        ({"loss": "foo"}, "`loss` must be"),
        ({"loss": "binary_crossentropi"}, "Did you mean 'binary_crossentropy'"),
        ({"loss": None}, "got None"),
        ({"metrics": ["foo"]}, "a metric must be"),
        ({"metrics": ["acuracy"]}, "Did you mean 'accuracy'"),
        ({"metrics": "accuracy"}, "must be a list"),
        ({"optimizer": "adm"}, "Did you mean 'adam'"),
        ({"optimizer": 3}, "got 3"),
    ],
)
def test_compile_refuses(compiled, message):
    with pytest.raises(ValueError, match=message):
        two_layers(**compiled)


@pytest.mark.parametrize(
    ("x", "y", "arguments", "message"),
    [
        ((3, 2, 2), (4,), {}, "one entry a sample"),
        ((0, 2, 2), (0,), {}, "empty"),
        ((3, 2, 3), (3,), {}, r"expects inputs of shape \[batch, 2, 2\]"),
        ((3, 2, 2), (3, 2), {}, "do not fit predictions"),
        ((3, 2, 2), (3,), {"epochs": 0}, "`epochs`"),
        ((3, 2, 2), (3,), {"batch_size": 0}, "`batch_size`"),
    ],
)
def test_fit_refuses(x, y, arguments, message):
    with pytest.raises(ValueError, match=message):
        two_layers().fit(torch.zeros(x), torch.zeros(y), **({"verbose": 0} | arguments))


def test_fit_and_evaluate_need_compile(tutorial_network):
    with pytest.raises(ValueError, match=r"call `compile\(\)`"):
        tutorial_network.fit(torch.zeros(1, 28, 28, 1), [0])
    with pytest.raises(ValueError, match=r"call `compile\(\)`"):
        tutorial_network.evaluate(torch.zeros(1, 28, 28, 1), [0])
