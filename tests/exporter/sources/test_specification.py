from pathlib import Path

import numpy as np
import pytest
import torch

from conveyor_exporter import layers
from conveyor_exporter.losses import CategoricalCrossentropy
from conveyor_exporter.optimizers import Adam
from conveyor_exporter.sources.specification import LAYERS, read_specification
from conveyor_exporter.sources.toml_table import flatten
from conveyor_exporter.training.early_stopping import EarlyStopping

EXAMPLES = Path(__file__).parents[3] / "exporter" / "examples"
GOOD = """
[model]
input_shape = [8, 8, 1]
[[model.layers]]
type = "Conv2D"
filters = 2
kernel_size = [3, 3]
activation = "relu"
[[model.layers]]
type = "Flatten"
[[model.layers]]
type = "Dense"
units = 1
activation = "sigmoid"
[training]
loss = "binary_crossentropy"
"""


def read(tmp_path, text):
    path = tmp_path / "spec.toml"
    path.write_text(text)
    return read_specification(path)


def test_a_specification_becomes_the_network_it_describes(tmp_path):
    specification = read(tmp_path, GOOD)
    model = specification.build()
    assert [layer.kind for layer in model.layers] == ["Conv2D", "Flatten", "Dense"]
    assert (model.input_shape, model.output_shape) == ((8, 8, 1), (1,))
    training = specification.training
    assert (training.epochs, training.batch_size, training.seed, training.test_split) == (10, 32, 0, 0.2)
    assert training.metrics == ("accuracy",)


def test_the_seed_decides_the_first_weights(tmp_path):
    specification = read(tmp_path, GOOD)
    weights = [torch.manual_seed(1) and specification.build().get_weights()[0] for _ in range(2)]
    np.testing.assert_array_equal(*weights)


def test_settings_are_tables_where_there_are_any(tmp_path):
    text = GOOD.replace('units = 1\nactivation = "sigmoid"', 'units = 3\nactivation = "softmax"').replace(
        'loss = "binary_crossentropy"',
        'loss = {name = "categorical_crossentropy", label_smoothing = 0.1}\nvalidation_split = 0.1\n'
        'optimizer = {name = "adam", learning_rate = 0.01}\n[training.early_stopping]\npatience = 4',
    )
    training = read(tmp_path, text).training
    assert training.optimizer == Adam(learning_rate=0.01)
    assert training.loss == CategoricalCrossentropy(label_smoothing=0.1)
    assert training.one_hot
    assert training.early_stopping == EarlyStopping(patience=4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('type = "Dense"', 'type = "Dens"', r"model\.layers\[2\]\.type: 'Dens' is no layer; .* Did you mean 'Dense'\?"),
        ('type = "Dense"', 'type = "SpatialLayer"', r"model\.layers\[2\]\.type: 'SpatialLayer' is no layer"),
        ('type = "Dense"', "kind = 1", r"model\.layers\[2\]\.type: is missing"),
        ("kernel_size", "kernel_sise", r"model\.layers\[0\]\.kernel_sise: unknown key; .* Did you mean 'kernel_size'"),
        ("filters = 2\n", "", r"model\.layers\[0\]\.filters: is missing; expected a value, because Conv2D needs it"),
        ("filters = 2", "filters = 2.5", r"model\.layers\[0\]\.filters: Conv2D: .* positive integer"),
        ('"relu"', '"rellu"', r"model\.layers\[0\]\.activation: .* Did you mean 'relu'"),
        ("[3, 3]", "9", r"model\.layers\[0\]: Conv2D 'conv2d'.* does not fit into an image of 8x8"),
        ("[8, 8, 1]", "[8, 8]", r"model\.input_shape: expected \[height, width, channels\]"),
        ("[8, 8, 1]", '"8"', r"model\.input_shape: model: cannot read '8'"),
        ("[model]", "[modle]", r"is no TOML|modle: unknown key"),
        ("[training]", "[trainning]", r"trainning: unknown key; .* Did you mean 'training'\?"),
        ('loss = "binary_crossentropy"', "", r"training\.loss: is missing"),
        ("binary_cross", "binary_kross", r"training\.loss: .* Did you mean 'binary_crossentropy'"),
        ("binary_cross", "categorical_cross", r"training\.loss: a network with 1 output needs .*'binary_crossentropy'"),
        ('"sigmoid"', '"relu"', r"model\.layers\[2\]: the network must end in probabilities"),
        ('type = "Flatten"', 'type = "Dropout"\nrate = 0.5', r"the network must end in \[units\]"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epochs = 0", r"training\.epochs: expected a whole number from 1, got 0"),
        ("batch_size = true", r"training\.batch_size: expected a whole number"),
        ("seed = -1", r"training\.seed"),
        ("shuffle = 1", r"training\.shuffle: expected true or false"),
        ("validation_split = 1.0", r"training\.validation_split: expected a number from 0 and below 1"),
        ("test_split = 0", r"training\.test_split: expected a number above 0"),
        ("validation_split = 0.8", r"training\.validation_split: .* nothing is left to train on"),
        ("epoch = 3", r"training\.epoch: unknown key; .* Did you mean 'epochs'"),
        ('optimizer = "adm"', r"training\.optimizer: .* Did you mean 'adam'"),
        ('optimizer = {name = "adm"}', r"training\.optimizer\.name: .* Did you mean 'adam'"),
        ('optimizer = {name = "adam", lr = 1}', r"training\.optimizer\.lr: unknown key"),
        ('optimizer = {name = "adam", learning_rate = 0}', r"training\.optimizer\.learning_rate: .* above 0"),
        ("optimizer = {learning_rate = 1}", r"training\.optimizer\.name: is missing"),
        ('metrics = "accuracy"', r"training\.metrics: .* must be a list"),
        ('metrics = ["acuracy"]', r"training: .* Did you mean 'accuracy'"),
        ("early_stopping = 5", r"training\.early_stopping: expected a table \[training\.early_stopping\]"),
        ("early_stopping = {patience = 1}", r"training\.early_stopping\.monitor: val_loss needs `validation_split`"),
        ("early_stopping = {patience = -1}", r"training\.early_stopping\.patience: .* whole number"),
        (
            "early_stopping = {patence = 1}",
            r"training\.early_stopping\.patence: unknown key; .* Did you mean 'patience'",
        ),
    ],
)
def test_wrong_training_settings_are_named_by_their_path(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, GOOD + line)


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*nowhere\.toml: No such file"):
        read_specification(tmp_path / "nowhere.toml")
    with pytest.raises(ValueError, match=r"spec\.toml is no TOML: .*line 1"):
        read(tmp_path, "= 3")


def test_every_public_layer_can_be_named():
    public = {name for name in layers.__all__ if isinstance(getattr(layers, name), type)}
    assert set(LAYERS) == public - {"Layer", "SpatialLayer", "Input", "InputLayer"}
    assert all(issubclass(layer, layers.Layer) for layer in LAYERS.values())


@pytest.mark.parametrize("name", ["faces", "digits"])
def test_the_examples_are_right(name):
    read_specification(EXAMPLES / f"{name}.toml")


def test_a_document_is_flattened_to_single_values():
    assert flatten({"a": {"b": [{"c": 1}, {"c": [1, 2]}]}, "d": "x"}) == {
        "a.b[0].c": "1",
        "a.b[1].c": "[1, 2]",
        "d": "'x'",
    }
