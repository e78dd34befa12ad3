import numpy as np
import pytest
import torch

from conveyor_exporter.layers import Conv2D, Dense, Flatten
from conveyor_exporter.layers.base import snake_case
from conveyor_exporter.network import Network

KERAS_SUMMARY = """\
Model: "sequential"
┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━┓
┃ Layer (type)                    ┃ Output Shape           ┃       Param # ┃
┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━┩
│ conv2d (Conv2D)                 │ (None, 26, 26, 16)     │           160 │
├─────────────────────────────────┼────────────────────────┼───────────────┤
│ flatten (Flatten)               │ (None, 10816)          │             0 │
├─────────────────────────────────┼────────────────────────┼───────────────┤
│ dense (Dense)                   │ (None, 1)              │        10,817 │
└─────────────────────────────────┴────────────────────────┴───────────────┘
 Total params: 10,977 (42.88 KB)
 Trainable params: 10,977 (42.88 KB)
 Non-trainable params: 0 (0.00 B)
"""


def test_summary_is_the_table_of_keras(tutorial_network, capsys):
    tutorial_network.summary()
    assert capsys.readouterr().out == KERAS_SUMMARY


def test_summary_of_an_unbuilt_network_says_so():
    lines = []
    Network([Conv2D(2, 3)]).summary(print_fn=lines.append)
    assert "│ ?  " in lines[0]
    assert "0 (unbuilt)" in lines[0]


def test_summary_of_no_layers_is_a_table_too():
    lines = []
    Network().summary(print_fn=lines.append)
    assert "Total params: 0 (0.00 B)" in lines[0]


def test_names_count_within_the_model():
    def names():
        network = Network([Dense(2, input_shape=(3,)), Dense(2), Dense(2, name="head"), Dense(1)])
        return [layer.name for layer in network.layers]

    assert names() == names() == ["dense", "dense_1", "head", "dense_2"]


@pytest.mark.parametrize(
    ("class_name", "name"),
    [("Conv2D", "conv2d"), ("MaxPooling2D", "max_pooling2d"), ("ReLU", "re_lu"), ("Dense", "dense")],
)
def test_default_names_are_those_of_keras(class_name, name):
    assert snake_case(class_name) == name


@pytest.mark.parametrize("name", ["dense", "forward", "training"])
def test_taken_names_are_refused(name):
    network = Network([Dense(2, input_shape=(3,))])
    with pytest.raises(ValueError, match="is taken"):
        network.add(Dense(1, name=name))
    assert len(network.layers) == 1


def test_messages_name_the_layer_as_the_summary_will():
    network = Network([Conv2D(2, 3, input_shape=(4, 4, 1))])
    with pytest.raises(ValueError, match="Conv2D 'conv2d_1': a window of 3x3 pixels"):
        network.add(Conv2D(2, 3))


def test_only_layers_can_be_added():
    with pytest.raises(TypeError, match="Write the parentheses"):
        Network([Flatten])
    with pytest.raises(ValueError, match="only layers"):
        Network([torch.nn.ReLU()])


def test_the_same_layer_cannot_be_added_twice():
    layer = Dense(3, input_shape=(3,))
    with pytest.raises(ValueError, match="is in this model already"):
        Network([layer, layer])


def test_a_layer_that_does_not_fit_leaves_the_network_as_it_was():
    network = Network([Flatten(input_shape=(4, 4, 1))])
    with pytest.raises(ValueError, match=r"must be \(height, width, channels\)"):
        network.add(Conv2D(2, 3))
    assert network(np.zeros((1, 4, 4, 1))).shape == (1, 16)


def test_a_second_input_shape_must_agree():
    with pytest.raises(ValueError, match="what is before it gives"):
        Network([Dense(2, input_shape=(3,)), Dense(2, input_shape=(3,))])


def test_weights_appear_on_the_first_call_when_no_shape_was_given():
    network = Network([Conv2D(2, 3), Flatten(), Dense(1)])
    assert not network.built
    with pytest.raises(ValueError, match="give its first layer `input_shape`"):
        _ = network.input_shape
    assert network(np.zeros((5, 4, 4, 1))).shape == (5, 1)
    assert network.input_shape == (4, 4, 1)


def test_flatten_lays_height_width_channels():
    image = np.arange(24.0).reshape(1, 2, 3, 4)
    assert Network([Flatten()])(image).tolist() == [list(range(24))]


def test_dense_acts_on_the_last_axis():
    network = Network([Dense(2, input_shape=(3, 4))])
    kernel, bias = network.get_weights()
    x = np.random.default_rng(0).normal(size=(5, 3, 4))
    np.testing.assert_allclose(network(x).detach().numpy(), x @ kernel + bias, atol=1e-6)


def test_weights_travel_in_the_axis_order_of_keras(tutorial_network):
    weights = tutorial_network.get_weights()
    assert [weight.shape for weight in weights] == [(3, 3, 1, 16), (16,), (10816, 1), (1,)]
    twin = Network([Conv2D(16, 3, activation="relu"), Flatten(), Dense(1, "sigmoid")])
    twin.build((28, 28, 1))
    twin.set_weights(weights)
    x = torch.rand(3, 28, 28, 1)
    assert torch.equal(twin(x), tutorial_network(x))


def test_wrong_weights_are_refused_and_change_nothing(tutorial_network):
    before = tutorial_network.get_weights()
    with pytest.raises(ValueError, match="has 4 weights, got 3"):
        tutorial_network.set_weights(before[:3])
    with pytest.raises(ValueError, match="`kernel` needs shape"):
        tutorial_network.layers[0].set_weights([before[0].T, before[1] + 1])
    for weight, kept in zip(tutorial_network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)


def test_weights_carry_the_names_of_the_layers(tutorial_network):
    assert list(tutorial_network.state_dict()) == ["conv2d.kernel", "conv2d.bias", "dense.kernel", "dense.bias"]
