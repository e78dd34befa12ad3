"""What Keras raises, we raise, at construction and with a message that says what to do."""

import pytest
import torch

from conveyor_exporter.errors import ExporterError
from conveyor_exporter.layers import (
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Input,
    LeakyReLU,
    MaxPooling2D,
    ReLU,
    Rescaling,
    Reshape,
    SeparableConv2D,
    Softmax,
    ZeroPadding2D,
)
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


OTHERS = [
    (lambda: DepthwiseConv2D(0), ValueError, "`kernel_size`"),
    (lambda: DepthwiseConv2D(3, depth_multiplier=0), ValueError, "`depth_multiplier` must be a positive integer"),
    (lambda: DepthwiseConv2D(3, strides=2, dilation_rate=2), ValueError, "cannot both be above 1"),
    (lambda: DepthwiseConv2D(3, padding="smae"), ValueError, "Did you mean 'same'"),
    (lambda: DepthwiseConv2D(3, kernel_initializer="zeros"), ValueError, "Did you mean 'depthwise_initializer'"),
    (lambda: SeparableConv2D("8", 3), TypeError, "`filters` must be a positive integer, got '8'"),
    (lambda: SeparableConv2D(8, 3, dilation_rate=2, strides=2), ValueError, "cannot both be above 1"),
    (lambda: SeparableConv2D(8, 3, pointwise_regularizer="l2"), ValueError, "not supported here"),
    (lambda: MaxPooling2D(2, padding="x"), ValueError, "`padding` must be 'valid' or 'same', got 'x'"),
    (lambda: MaxPooling2D(0), ValueError, "`pool_size`"),
    (lambda: MaxPooling2D(2, strides=0), ValueError, "`strides`"),
    (lambda: MaxPooling2D(pool=2), ValueError, "Did you mean 'pool_size'"),
    (lambda: AveragePooling2D(2, padding=1), TypeError, "got 1"),
    (lambda: AveragePooling2D(2, data_format="channels_first"), ValueError, "'channels_last'"),
    (lambda: AveragePooling2D(2, input_shape=(4, 4)), ValueError, r"add the channel: \(4, 4, 1\)"),
    (lambda: GlobalMaxPooling2D(keepdims=1), TypeError, "`keepdims` must be True or False"),
    (lambda: GlobalAveragePooling2D(keepdim=True), ValueError, "Did you mean 'keepdims'"),
    (lambda: BatchNormalization(axis=0), ValueError, "`axis` must be -1"),
    (lambda: BatchNormalization(axis=(1, 2)), ValueError, "`axis` must be one integer"),
    (lambda: BatchNormalization(axis=1).build((4, 4, 2)), ValueError, "Use axis=-1"),
    (lambda: BatchNormalization(momentum=1.5), ValueError, "at least 0 and at most 1, got 1.5"),
    (lambda: BatchNormalization(epsilon="small"), TypeError, "`epsilon` must be a number"),
    (lambda: BatchNormalization(renorm=True), ValueError, "not supported here"),
    (lambda: Activation("rleu"), ValueError, "Did you mean 'relu'"),
    (lambda: Activation(None), ValueError, "got None"),
    (lambda: Activation("glu").build((4, 4, 3)), ValueError, "`glu` halves the channels, and 3 cannot be halved"),
    (lambda: Activation("threshold"), ValueError, "`threshold` cannot be called by its name alone"),
    (lambda: ReLU(max_value=-1), ValueError, "`max_value` must be a number, at least 0, got -1"),
    (lambda: ReLU(negative_slope=None), TypeError, "`negative_slope`"),
    (lambda: ReLU(threshold=float("nan")), ValueError, "`threshold`"),
    (lambda: LeakyReLU(-0.1), ValueError, "`negative_slope`"),
    (lambda: LeakyReLU(alpha=0.1), ValueError, "unknown argument `alpha`"),
    (lambda: Softmax(0), ValueError, "would mix the samples"),
    (lambda: Softmax((1, 2)), ValueError, "`axis` must be one integer"),
    (lambda: Softmax(2).build((4,)), ValueError, "axis=2 is not an axis"),
    (lambda: Dropout(1.2), ValueError, "`rate` must be a number, at least 0 and at most 1, got 1.2"),
    (lambda: Dropout(-1), ValueError, "got -1"),
    (lambda: Dropout("half"), TypeError, "got 'half'"),
    (lambda: Dropout(0.5, noise_shape=(1, 2)), ValueError, "`noise_shape` is not supported here"),
    (lambda: Dropout(0.5, seed=0.5), TypeError, "`seed` must be an integer or None"),
    (lambda: Rescaling("1/255"), TypeError, "`scale` must be a number"),
    (lambda: Rescaling([]), ValueError, "`scale` must be a number or one for each channel"),
    (lambda: Rescaling([1, 2]).build((4, 4, 3)), ValueError, "`scale` has 2 numbers, but the inputs have 3 channels"),
    (lambda: ZeroPadding2D(-1), ValueError, "`padding` must be an integer of at least 0"),
    (lambda: ZeroPadding2D((1, 2, 3)), ValueError, r"got \(1, 2, 3\)"),
    (lambda: ZeroPadding2D("same"), ValueError, "got 'same'"),
    (lambda: Reshape(4), TypeError, "must be a tuple"),
    (lambda: Reshape((-1, -1)), ValueError, "-1 at most once"),
    (lambda: Reshape((2, 0)), ValueError, "positive integers"),
    (lambda: Reshape((5, -1)).build((4, 4, 1)), ValueError, "16 values of shape"),
    (lambda: Input(28), TypeError, "cannot read 28"),
    (lambda: Input((None, 28, 1)), ValueError, "every axis"),
    (lambda: Input((28,), batch_size=4), ValueError, "the batch axis stays open"),
    (lambda: Input((28,), dtype="uint8"), ValueError, "must be 'float32'"),
    (lambda: Dense(3, trainable="no"), TypeError, "`trainable` must be True or False"),
    (lambda: Dense(3, dtype="float16"), ValueError, "not supported here"),
]


@pytest.mark.parametrize(("construct", "kind", "message"), OTHERS, ids=[message for *_, message in OTHERS])
def test_other_layers_refuse(construct, kind, message):
    with pytest.raises(kind, match=message) as caught:
        construct()
    assert isinstance(caught.value, ExporterError)


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
