"""Each layer against a few lines of numpy, written from Keras' definitions."""

import itertools

import numpy as np
import pytest
import torch

from conveyor_exporter.layers import (
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Input,
    InputLayer,
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


def spans(size, reach, stride, padding):
    """Return (first pixel, how many places) of a window along an axis; the first pixel may lie outside."""
    if padding == "valid":
        return 0, (size - reach) // stride + 1
    places = -(-size // stride)
    return -(max(0, (places - 1) * stride + reach - size) // 2), places


def windows(images, size, strides, dilation, padding):
    """Yield for each place of a window: (row, column, list of (i, j, pixels [n, c]) that lie inside the image)."""
    reaches = [(size[axis] - 1) * dilation[axis] + 1 for axis in (0, 1)]
    (top, rows), (left, columns) = (spans(images.shape[1 + a], reaches[a], strides[a], padding) for a in (0, 1))
    for row, column in np.ndindex(rows, columns):
        cells = []
        for i, j in np.ndindex(*size):
            y, x = top + row * strides[0] + i * dilation[0], left + column * strides[1] + j * dilation[1]
            if 0 <= y < images.shape[1] and 0 <= x < images.shape[2]:
                cells.append((i, j, images[:, y, x]))
        yield row, column, cells


def depthwise(images, kernel, layer):
    channels, multiplier = kernel.shape[2:]
    outputs = {}
    for row, column, cells in windows(images, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding):
        total = np.zeros((len(images), channels, multiplier))
        for i, j, pixels in cells:
            total += pixels[:, :, None] * kernel[i, j]
        outputs[row, column] = total.reshape(len(images), -1)
    return as_images(outputs)


def as_images(outputs):
    rows, columns = (1 + max(place[axis] for place in outputs) for axis in (0, 1))
    return np.stack([np.stack([outputs[r, c] for c in range(columns)], 1) for r in range(rows)], 1)


def pooled(images, layer, reduce):
    places = windows(images, layer.pool_size, layer.strides, (1, 1), layer.padding)
    return as_images({(r, c): reduce([pixels for *_, pixels in cells], 0) for r, c, cells in places})


def pictures(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)


def run(layer, images):
    """Return the outputs in float32, after a look at the shape and at float64."""
    layer.eval()
    outputs = layer(torch.from_numpy(images)).detach().numpy()
    assert outputs.dtype == np.float32
    assert outputs.shape[1:] == layer.output_shape
    doubled = layer.double()(torch.from_numpy(images.astype(np.float64)))
    assert doubled.dtype == torch.float64
    np.testing.assert_allclose(outputs, doubled.detach().numpy(), atol=1e-5)
    return outputs


def with_weights(layer, shape):
    """Build a layer and give it weights that no initialiser would."""
    layer.build(shape)
    generator = np.random.default_rng(7)
    weights = [generator.normal(0.3, 0.7, weight.shape).astype(np.float32) for weight in layer.get_weights()]
    layer.set_weights(weights)
    for given, kept in zip(weights, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(given, kept)
    return weights


SIZES = [(5, 7), (8, 8), (9, 6)]
KERNELS = [1, 2, 3, (2, 3), (4, 1)]
SPACINGS = [(1, 1), (2, 1), (3, 1), (1, 2), ((1, 2), 1)]  # strides, dilation_rate
PADDINGS = ["valid", "same"]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("strides", "dilation_rate"), SPACINGS)
@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_and_separable_convolutions(kernel_size, strides, dilation_rate, padding, multiplier):
    for size in SIZES:
        arguments = {"strides": strides, "padding": padding, "dilation_rate": dilation_rate}
        layer = DepthwiseConv2D(kernel_size, depth_multiplier=multiplier, activation="relu", **arguments)
        extent = [(k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)]
        if padding == "valid" and (extent[0] > size[0] or extent[1] > size[1]):
            with pytest.raises(ValueError, match="does not fit into an image"):
                layer.build((*size, 2))
            continue
        images = pictures(*size, 2)
        kernel, bias = with_weights(layer, (*size, 2))
        assert kernel.shape == (*layer.kernel_size, 2, multiplier)
        mixed = depthwise(images, kernel, layer)
        np.testing.assert_allclose(run(layer, images), np.maximum(mixed + bias, 0), atol=1e-4)

        layer = SeparableConv2D(4, kernel_size, depth_multiplier=multiplier, **arguments)
        kernel, pointwise, bias = with_weights(layer, (*size, 2))
        assert pointwise.shape == (1, 1, 2 * multiplier, 4)
        expected = depthwise(images, kernel, layer) @ pointwise[0, 0] + bias
        np.testing.assert_allclose(run(layer, images), expected, atol=1e-4)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("strides", [None, 1, 2, 3, (1, 2)])
@pytest.mark.parametrize("pool_size", [1, 2, 3, 4, (2, 3)])
@pytest.mark.parametrize(("kind", "reduce"), [(MaxPooling2D, np.max), (AveragePooling2D, np.mean)])
def test_pooling_counts_only_pixels(kind, reduce, pool_size, strides, padding):
    for size in SIZES:
        images = pictures(*size, 3) - 5  # below zero, so that a padded zero would win
        layer = kind(pool_size, strides, padding)
        np.testing.assert_allclose(run(layer, images), pooled(images, layer, reduce), atol=1e-5)


def test_a_pool_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match=r"a window of 3x3 pixels \(pool_size=\(3, 3\)\) does not fit"):
        MaxPooling2D(3, input_shape=(2, 5, 1)).build((2, 5, 1))


@pytest.mark.parametrize("keepdims", [False, True])
def test_global_poolings(keepdims):
    images = pictures(4, 5, 3)
    largest, mean = GlobalMaxPooling2D(keepdims=keepdims), GlobalAveragePooling2D(keepdims=keepdims)
    np.testing.assert_allclose(run(largest, images), images.max((1, 2), keepdims=keepdims), atol=1e-6)
    np.testing.assert_allclose(run(mean, images), images.mean((1, 2), keepdims=keepdims), atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5, 3), (6,), (4, 3)])
@pytest.mark.parametrize(("center", "scale"), list(itertools.product([True, False], repeat=2)))
def test_batch_normalization_at_inference(shape, center, scale):
    layer = BatchNormalization(center=center, scale=scale, epsilon=0.01)
    layer.build(shape)
    generator = np.random.default_rng(3)
    weights = dict.fromkeys(layer.weights())
    assert list(weights) == ["gamma"] * scale + ["beta"] * center + ["moving_mean", "moving_variance"]
    weights = {name: generator.uniform(0.5, 2, shape[-1]).astype(np.float32) for name in weights}
    layer.set_weights(list(weights.values()))
    x = pictures(*shape)
    expected = (x - weights["moving_mean"]) / np.sqrt(weights["moving_variance"] + 0.01)
    expected = expected * weights.get("gamma", 1) + weights.get("beta", 0)
    np.testing.assert_allclose(run(layer, x), expected, atol=1e-5)


def test_batch_normalization_in_training_moves_towards_the_biased_variance():
    layer = BatchNormalization(momentum=0.9)
    x = pictures(3, 1, 2)
    outputs = layer(torch.from_numpy(x))
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(outputs.detach(), (x - mean) / np.sqrt(variance + 1e-3), atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * variance, atol=1e-6)
    assert [name for name, _ in layer.named_parameters()] == ["gamma", "beta"]


def test_a_frozen_batch_normalization_is_in_inference_mode():
    layer = BatchNormalization(trainable=False)
    x = pictures(3, 1, 2)
    np.testing.assert_allclose(layer.train()(torch.from_numpy(x)), x / np.sqrt(1 + 1e-3), atol=1e-6)
    np.testing.assert_array_equal(layer.moving_mean, [0, 0])
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_trainable_can_change_after_building():
    layer = Dense(2, input_shape=(3,), trainable=False)
    layer.build((3,))
    assert not layer.kernel.requires_grad
    layer.trainable = True
    assert layer.kernel.requires_grad
    with pytest.raises(TypeError, match="`trainable` must be True or False"):
        layer.trainable = 1


def test_frozen_weights_stay_while_others_learn():
    model = Sequential([Dense(3, input_shape=(2,), trainable=False), BatchNormalization(), Dense(1)])
    model.compile(optimizer="adam", loss="mse")
    before = model.get_weights()
    model.fit(pictures(2, seed=2), np.arange(2), epochs=1, verbose=0)
    changed = [bool((b != a).any()) for b, a in zip(before, model.get_weights(), strict=True)]
    assert changed == [False, False, True, True, True, True, True, True]


def relu(x, max_value, slope, threshold):
    y = np.where(x > threshold, x, slope * (x - threshold))
    return y if max_value is None else np.minimum(y, max_value)


@pytest.mark.parametrize("max_value", [None, 0, 1.5, 6])
@pytest.mark.parametrize("slope", [0, 0.25])
@pytest.mark.parametrize("threshold", [0, 0.5])
def test_relu_bends_three_times(max_value, slope, threshold):
    x = np.linspace(-9, 9, 73, dtype=np.float32)[None]
    outputs = run(ReLU(max_value, slope, threshold), x)
    np.testing.assert_allclose(outputs, relu(x, max_value, slope, threshold), atol=1e-6)


def test_elementwise_layers():
    x = pictures(4, 5, 3)
    np.testing.assert_allclose(run(LeakyReLU(), x), np.where(x > 0, x, 0.3 * x), atol=1e-6)
    np.testing.assert_allclose(run(LeakyReLU(0.1), x), np.where(x > 0, x, 0.1 * x), atol=1e-6)
    np.testing.assert_allclose(run(Activation("tanh"), x), np.tanh(x), atol=1e-6)
    np.testing.assert_allclose(run(Rescaling(2, -1), x), 2 * x - 1, atol=1e-6)
    np.testing.assert_allclose(run(Rescaling([1, 2, 3], offset=(0, 1, 0)), x), x * [1, 2, 3] + [0, 1, 0], atol=1e-6)


def test_rescaling_takes_bytes():
    layer = Rescaling(1 / 255)
    assert layer(torch.tensor([[0, 255]], dtype=torch.uint8)).tolist() == [[0, pytest.approx(1)]]


@pytest.mark.parametrize("axis", [-1, 3, 1, -2, [-1]])
def test_softmax_goes_over_its_axis(axis):
    x = pictures(4, 5, 3)
    axis_number = axis[0] if isinstance(axis, list) else axis
    exponents = np.exp(x)
    expected = exponents / exponents.sum(axis_number, keepdims=True)
    np.testing.assert_allclose(run(Softmax(axis), x), expected, atol=1e-6)


@pytest.mark.parametrize(
    "layer", [lambda: Softmax(), lambda: Dense(1, activation="softmax"), lambda: Activation("softmax")]
)
def test_a_softmax_over_one_value_warns(layer):
    with pytest.warns(UserWarning, match="over an axis of size 1 always gives 1"):
        layer().build((4, 1))


def test_shapes():
    x = pictures(4, 5, 3)
    np.testing.assert_array_equal(run(Flatten(), x), x.reshape(2, 60))
    np.testing.assert_array_equal(run(Reshape((10, -1)), x), x.reshape(2, 10, 6))
    np.testing.assert_array_equal(run(Reshape([-1]), x), x.reshape(2, 60))
    np.testing.assert_array_equal(run(Reshape((3, 5, 4)), x), x.reshape(2, 3, 5, 4))
    for padding, pads in ((1, (1, 1, 1, 1)), ((1, 2), (1, 1, 2, 2)), (((1, 0), (2, 3)), (1, 0, 2, 3))):
        top, bottom, left, right = pads
        expected = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
        np.testing.assert_array_equal(run(ZeroPadding2D(padding), x), expected)


def test_dropout_drops_its_part_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(100, 100)
    for layer in (Dropout(0.3), Dropout(0.3, seed=5)):
        y = layer(x)
        assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])
        assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
        assert torch.equal(layer.eval()(x), x)
    assert torch.equal(Dropout(0)(x), x)
    assert not Dropout(1)(x).any()
    assert not Dropout(1, seed=1)(x).any()


def test_a_seeded_dropout_draws_its_own_masks_and_goes_on_from_its_state():
    x = torch.ones(8, 8)
    first, second = Dropout(0.5, seed=3), Dropout(0.5, seed=3)
    masks = [first(x) for _ in range(3)]
    torch.rand(5)  # whatever else draws
    assert torch.equal(second(x), masks[0])
    assert not torch.equal(masks[0], masks[1])
    resumed = Dropout(0.5, seed=3)
    resumed.load_state_dict(second.state_dict())
    assert torch.equal(resumed(x), masks[1])


@pytest.mark.parametrize("kind", [Input, InputLayer])
def test_an_input_says_the_shape(kind):
    model = Sequential([kind(shape=(4, 3), name="pictures"), Flatten(), Dense(2)])
    assert model.input_shape == (4, 3)
    assert [layer.name for layer in model.layers] == ["flatten", "dense"]
    lines = []
    model.summary(print_fn=lines.append)
    assert "input" not in lines[0].lower()


def test_an_input_stands_first_once():
    with pytest.raises(ValueError, match="can only stand first"):
        Sequential([Flatten(), Input((3,))])
    with pytest.raises(ValueError, match="can only stand first"):
        Sequential([Input((3,)), Input((3,))])
    with pytest.raises(ValueError, match="what is before it gives"):
        Sequential([Input((3,)), Dense(2, input_shape=(4,))])


def test_the_summary_counts_what_training_does_not_change():
    model = Sequential([Dense(3, input_shape=(2,), trainable=False), BatchNormalization(), Dense(1)])
    lines = []
    model.summary(print_fn=lines.append)
    assert lines[0].splitlines()[-3:] == [
        " Total params: 25 (100.00 B)",
        " Trainable params: 10 (40.00 B)",
        " Non-trainable params: 15 (60.00 B)",
    ]
