"""Conv2D against a plain numpy convolution, written from Keras' definition."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conveyor_exporter.errors import InvalidInput
from conveyor_exporter.layers import Conv2D


def reference(images, kernel, bias, strides, padding, dilation, groups):
    """images [n, h, w, c], kernel [kh, kw, c / groups, filters]: cross-correlation, channels last."""
    pads, sizes = [(0, 0)], []
    for axis in (0, 1):
        size, extent = images.shape[1 + axis], (kernel.shape[axis] - 1) * dilation[axis] + 1
        if padding == "same":
            out = -(-size // strides[axis])
            total = max(0, (out - 1) * strides[axis] + extent - size)
        else:
            out, total = (size - extent) // strides[axis] + 1, 0
        pads.append((total // 2, total - total // 2))
        sizes.append(out)
    padded = np.pad(images.astype(np.float64), [*pads, (0, 0)])
    share, filters = kernel.shape[2], kernel.shape[3]
    outputs = np.zeros((len(images), *sizes, filters))
    for row, column, (i, j) in itertools.product(range(sizes[0]), range(sizes[1]), np.ndindex(kernel.shape[:2])):
        pixel = padded[:, row * strides[0] + i * dilation[0], column * strides[1] + j * dilation[1]]
        for group in range(groups):
            chosen = slice(group * filters // groups, (group + 1) * filters // groups)
            part = pixel[:, group * share : (group + 1) * share]
            outputs[:, row, column, chosen] += part @ kernel[i, j, :, chosen]
    return outputs + bias


def agree(size, channels, layer):
    images = np.random.default_rng(1).normal(size=(2, *size, channels)).astype(np.float32)
    layer.build((*size, channels))
    kernel = layer.get_weights()[0]
    bias = np.linspace(-1, 1, layer.filters).astype(np.float32)
    layer.set_weights([kernel, bias])
    outputs = layer(torch.from_numpy(images)).detach().numpy()
    expected = reference(images, kernel, bias, layer.strides, layer.padding, layer.dilation_rate, layer.groups)
    assert outputs.shape == (2, *layer.output_shape) == expected.shape
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


SPACINGS = [(1, 1), (2, 1), (3, 1), (1, 2)]  # strides, dilation_rate


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("strides", "dilation_rate"), SPACINGS)
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [5, 8, 9])
def test_conv2d_means_what_keras_means(size, kernel_size, strides, dilation_rate, padding):
    layer = Conv2D(4, kernel_size, strides=strides, padding=padding, dilation_rate=dilation_rate)
    if padding == "valid" and (kernel_size - 1) * dilation_rate + 1 > size:
        with pytest.raises(InvalidInput, match="does not fit into an image"):
            layer.build((size, size, 2))
    else:
        agree((size, size), 2, layer)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_split_the_channels(groups):
    agree((6, 7), 4, Conv2D(8, (3, 2), padding="same", strides=(1, 2), groups=groups))


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel_size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.sampled_from(["valid", "same", "SAME"]),
    channels=st.integers(1, 3),
    filters=st.integers(1, 3),
)
@example(size=(5, 5), kernel_size=(2, 4), strides=(1, 2), padding="valid", channels=1, filters=2)  # torch got it wrong
def test_axes_do_not_disturb_one_another(size, kernel_size, strides, padding, channels, filters):
    agree(size, channels, Conv2D(filters, kernel_size, strides=strides, padding=padding))


def test_one_channel_between_two_convolutions_is_laid_out_right():
    image = torch.rand(2, 6, 6, 3)
    first, second = Conv2D(1, 2), Conv2D(2, (2, 4), strides=(1, 2))
    between = first(image)
    outputs = second(between).detach().numpy()
    kernel, bias = second.get_weights()
    expected = reference(between.detach().numpy(), kernel, bias, (1, 2), "valid", (1, 1), 1)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_strided_same_puts_the_odd_pixel_at_the_end():
    layer = Conv2D(1, 3, strides=2, padding="same", kernel_initializer="ones", input_shape=(4, 4, 1))
    image = torch.zeros(1, 4, 4, 1)
    image[0, 0, 0, 0] = 1  # with a zero before it, this pixel would lie in one window only at the second cell
    assert layer(image)[0, :, :, 0].tolist() == [[1, 0], [0, 0]]
    assert layer(torch.ones(1, 4, 4, 1))[0, :, :, 0].tolist() == [[9, 6], [6, 4]]


def test_no_bias_means_no_bias():
    layer = Conv2D(3, 2, use_bias=False)
    layer.build((4, 4, 1))
    assert [weight.shape for weight in layer.get_weights()] == [(2, 2, 1, 3)]


def test_softmax_goes_over_the_channels():
    layer = Conv2D(3, 2, activation="softmax")
    np.testing.assert_allclose(layer(torch.rand(2, 4, 5, 1)).detach().sum(-1), 1, atol=1e-6)


def test_activation_may_be_a_function():
    layer = Conv2D(3, 2, activation=lambda x: x * 0 + x.shape[-1])
    assert (layer(torch.rand(2, 4, 5, 1)) == 3).all()  # it sees the channels last


def test_first_weights_are_glorot_uniform_and_zeros():
    torch.manual_seed(0)
    layer = Conv2D(16, 3)
    layer.build((28, 28, 1))
    kernel, bias = layer.get_weights()
    assert 0.19 < np.abs(kernel).max() <= 0.19803
    assert not bias.any()
