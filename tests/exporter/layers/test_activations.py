import math

import pytest
import torch

from conveyor_exporter import activations
from conveyor_exporter.layers import Activation, Conv2D, Dense, DepthwiseConv2D, SeparableConv2D

AT_MINUS_ONE_AND_TWO = {
    "linear": (-1, 2),
    "relu": (0, 2),
    "relu6": (0, 2),
    "leaky_relu": (-0.2, 2),
    "elu": (math.expm1(-1), 2),
    "selu": (1.0507009873554805 * 1.6732632423543772 * math.expm1(-1), 2 * 1.0507009873554805),
    "gelu": (-0.5 * (1 + math.erf(-1 / math.sqrt(2))), 1 + math.erf(2 / math.sqrt(2))),
    "sigmoid": (1 / (1 + math.e), 1 / (1 + math.exp(-2))),
    "hard_sigmoid": (0.5 - 1 / 6, 0.5 + 2 / 6),
    "silu": (-1 / (1 + math.e), 2 / (1 + math.exp(-2))),
    "swish": (-1 / (1 + math.e), 2 / (1 + math.exp(-2))),
    "softplus": (math.log1p(math.exp(-1)), math.log1p(math.exp(2))),
    "softsign": (-0.5, 2 / 3),
    "tanh": (math.tanh(-1), math.tanh(2)),
    "exponential": (math.exp(-1), math.exp(2)),
    "celu": (math.expm1(-1), 2),
    "hard_silu": (-0.5 + 1 / 6, 2 * (0.5 + 2 / 6)),
    "hard_swish": (-0.5 + 1 / 6, 2 * (0.5 + 2 / 6)),
    "mish": (-math.tanh(math.log1p(math.exp(-1))), 2 * math.tanh(math.log1p(math.exp(2)))),
    "log_sigmoid": (-math.log1p(math.exp(1)), -math.log1p(math.exp(-2))),
    "sparse_sigmoid": (0, 1),
    "hard_tanh": (-1, 1),
    "tanh_shrink": (-1 + math.tanh(1), 2 - math.tanh(2)),
    "sparse_plus": (0, 2),
    "squareplus": ((-1 + math.sqrt(5)) / 2, (2 + math.sqrt(8)) / 2),
    "hard_shrink": (-1, 2),
    "soft_shrink": (-0.5, 1.5),
    "log_softmax": (-math.log1p(math.exp(3)), -math.log1p(math.exp(-3))),
    "softmax": (1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))),
    "sparsemax": (0, 1),
    "glu": (-1 / (1 + math.exp(-2)),),
}


@pytest.mark.parametrize("name", sorted(activations.NAMED))
def test_constants_are_those_of_keras(name):
    values = activations.get(name, "Dense")(torch.tensor([-1.0, 2.0]))
    assert values.tolist() == pytest.approx(AT_MINUS_ONE_AND_TWO[name], abs=1e-6)


def test_none_is_linear_and_names_have_no_case():
    assert activations.get(None, "Dense") is activations.linear
    assert activations.get("ReLU", "Dense") is activations.relu


def test_what_may_mix_channels_is_not_elementwise():
    assert activations.is_elementwise(activations.relu)
    assert not activations.is_elementwise(activations.softmax)
    assert not activations.is_elementwise(lambda x: x)


@pytest.mark.parametrize("axis", [-1, 1])
def test_sparsemax_is_the_closest_point_whose_values_add_up_to_one(axis):
    x = torch.randn(50, 6, 6, generator=torch.Generator().manual_seed(0))
    outputs = activations.sparsemax(x, axis)
    for values, got in zip(x.movedim(axis, -1).reshape(-1, 6), outputs.movedim(axis, -1).reshape(-1, 6), strict=True):
        largest = sorted(values.tolist(), reverse=True)
        # Algorithm 1 of the paper
        support = max(k for k in range(1, 7) if 1 + k * largest[k - 1] > sum(largest[:k]))
        threshold = (sum(largest[:support]) - 1) / support
        assert got.tolist() == pytest.approx([max(value - threshold, 0) for value in values.tolist()], abs=1e-6)
        assert got.sum().item() == pytest.approx(1, abs=1e-6)


def test_glu_halves_the_channels_of_any_layer():
    shapes = [
        (Conv2D(6, 2, activation="glu"), (4, 4, 2), (3, 3, 3)),
        (DepthwiseConv2D(2, activation="glu"), (4, 4, 2), (3, 3, 1)),
        (SeparableConv2D(4, 2, activation="glu"), (4, 4, 2), (3, 3, 2)),
        (Dense(4, activation="glu"), (3,), (2,)),
        (Activation("glu"), (3, 4), (3, 2)),
    ]
    for layer, given, made in shapes:
        assert layer(torch.zeros(1, *given)).shape[1:] == layer.output_shape == made
    with pytest.raises(ValueError, match=r"Dense 'dense': `glu` halves the channels, and 3 cannot be halved"):
        Dense(3, activation="glu")(torch.zeros(1, 2))
