"""What a description may say: shapes of configs that Keras has written over the years, and what is refused by name."""

import copy
import json

import numpy as np
import pytest
import torch

from conveyor_exporter import activations, load_keras
from conveyor_exporter.errors import ModelFileRefused
from support import keras_files
from support.keras_files import archive, config, entry, functional_config, keras2_config, layer, legacy, metadata


def write(folder, content, name="model.keras"):
    path = folder / name
    path.write_bytes(content)
    return path


def answers(path):
    return load_keras(path).predict(np.linspace(-1, 1, 60).reshape(2, *keras_files.SHAPE))


def refusal(folder, model):
    with pytest.raises(ModelFileRefused) as refused:
        load_keras(write(folder, archive(model)))
    return str(refused.value)


@pytest.fixture
def expected(tmp_path):
    return answers(write(tmp_path, archive(), "expected.keras"))


@pytest.mark.parametrize(
    "content",
    [
        archive(functional_config()),
        archive(keras2_config()),
        archive(compression=8),
        legacy(),
        legacy(prefix="sequential/"),
        legacy(keras2_config(), suffix=":0"),
        legacy(functional_config()),
    ],
    ids=["functional", "keras2", "deflated", "legacy", "legacy3", "legacy2", "legacy_functional"],
)
def test_all_forms_of_one_model_are_read(tmp_path, expected, content):
    np.testing.assert_array_equal(answers(write(tmp_path, content)), expected)


def hidden(activation):
    """A description whose first layer has another activation."""
    model = config()
    layer(model, "first")["config"]["activation"] = activation
    return model


def first_activation(path):
    return load_keras(path).layers[0].activation


@pytest.mark.parametrize(
    ("version", "name", "meant"),
    [
        ("2.15.0", "hard_sigmoid", activations.hard_sigmoid_of_keras_2),
        ("2.2.4-tf", "Hard_Sigmoid", activations.hard_sigmoid_of_keras_2),
        ("1.2", "hard_sigmoid", activations.hard_sigmoid_of_keras_2),
        ("3.0.0", "hard_sigmoid", activations.hard_sigmoid),
        ("10.0", "hard_sigmoid", activations.hard_sigmoid),
        ("unknown", "hard_sigmoid", activations.hard_sigmoid),
        ("2.12.0", "log_softmax_v2", activations.log_softmax),
        ("2.0.0", "softmax_v2", activations.softmax),
        ("2.15.0", "relu", activations.relu),
        ("3.16.0", "sparsemax", activations.sparsemax),
    ],
)
def test_an_activation_means_what_it_meant_in_its_version(tmp_path, version, name, meant):
    path = write(tmp_path, archive(hidden(name), members={"metadata.json": metadata(version)}))
    assert first_activation(path) is meant

    def change(file):
        file.attrs["keras_version"] = version

    assert first_activation(write(tmp_path, legacy(hidden(name), change), "model.h5")) is meant


def test_hard_sigmoid_of_keras_2_is_steeper():
    values = activations.hard_sigmoid_of_keras_2(torch.tensor([-3.0, -2.5, -1.0, 0.0, 2.0, 3.0]))
    assert values.tolist() == pytest.approx([0, 0, 0.3, 0.5, 0.9, 1])


@pytest.mark.parametrize("version", ["3.7.0", "3.15.1"])
def test_an_activation_that_keras_computed_wrongly_is_refused(tmp_path, version):
    path = write(tmp_path, archive(hidden("sparsemax"), members={"metadata.json": metadata(version)}))
    with pytest.raises(ModelFileRefused, match=f"'sparsemax' of Keras {version} computes values that do not add up"):
        load_keras(path)


def test_a_functional_model_of_keras_2_is_read(tmp_path, expected):
    model = functional_config()
    for item in model["config"]["layers"]:
        for node in item["inbound_nodes"]:
            history = node["args"][0]["config"]["keras_history"]
            item["inbound_nodes"] = [[[*history, {}]]]
    model["class_name"] = model["registered_name"] = "Model"
    model["config"]["input_layers"] = [model["config"]["input_layers"]]
    np.testing.assert_array_equal(answers(write(tmp_path, archive(model))), expected)


def test_the_groups_of_keras_2_are_read(tmp_path, expected):
    weights = keras_files.archive_weights(lambda file: file.move("layers", "_layer_checkpoint_dependencies"))
    np.testing.assert_array_equal(answers(write(tmp_path, archive(weights=weights))), expected)


def test_a_sequential_whose_config_is_a_list_is_read(tmp_path, expected):
    model = keras2_config()
    model["config"] = model["config"]["layers"]
    np.testing.assert_array_equal(answers(write(tmp_path, legacy(model), "old.h5")), expected)


def test_names_that_would_act_on_a_terminal_or_in_a_graph_are_made_harmless(tmp_path):
    model = config()
    layer(model, "first")["config"]["name"] = "a/b.c\x1b[31m"
    weights = keras_files.archive_weights(lambda file: file["layers/conv2d/vars"].attrs.modify("name", "a/b.c\x1b[31m"))
    names = [item.name for item in load_keras(write(tmp_path, archive(model, weights))).layers]
    assert names == ["a_b_c__31m", "flatten", "last"]


def test_a_name_that_the_model_itself_uses_gets_a_number(tmp_path):
    model = config()
    layer(model, "flatten")["config"]["name"] = "predict"
    weights = keras_files.archive_weights(lambda file: file["layers/flatten/vars"].attrs.modify("name", "predict"))
    network = load_keras(write(tmp_path, archive(model, weights)))
    assert [item.name for item in network.layers] == ["first", "predict_1", "last"]


REFUSED_SETTINGS = [
    ("first", "data_format", "channels_first", "'first' .*channels_last"),
    ("first", "groups", 2, "'first' .*groups"),
    ("first", "filters", 0, "'first' .*filters"),
    ("first", "filters", "2", "'first' .*filters"),
    ("first", "filters", 1 << 40, "'first' .*'filters' cannot be"),
    ("first", "kernel_size", [9, 9], "'first' .*does not fit"),
    ("first", "padding", {"a": 1}, "'first' .*'padding' cannot be dict"),
    ("first", "strides", [[[[1]]]] * 9, "'strides' cannot be list of 9"),
    ("first", "activation", "relux", "'first' .*relu"),
    ("first", "activation", {"class_name": "function", "config": "boom"}, "activation is an object .'function'"),
    ("first", "activation", {"module": "keras.layers", "class_name": "LeakyReLU"}, "'LeakyReLU'.*as a layer"),
    ("first", "lora_rank", 4, "'lora_rank'=4 is not known"),
    ("first", "surprise", True, "'surprise'=True is not known"),
    ("last", "quantization_config", {"class_name": "Int8"}, "'quantization_config'=dict of 1 is not known"),
    ("last", "dtype", "float64", "'last' .*computes in 'float64'"),
    ("last", "dtype", "float16", "'last' .*computes in 'float16'"),
    ("last", "dtype", {"class_name": "QuantizedDTypePolicy", "config": {}}, "computes in 'QuantizedDTypePolicy'"),
    ("last", "dtype", 7, "computes in 7"),
    ("input_layer", "sparse", True, "'sparse'=True is not supported"),
    ("input_layer", "dtype", "string", "'input_layer' .*'string'"),
    ("input_layer", "batch_shape", [None, None, None, 1], "every axis but the first as a number"),
    ("input_layer", "batch_shape", [None, 0, 5, 1], "every axis"),
    ("input_layer", "batch_shape", [None, 1 << 20, 1 << 20, 1], "the input has .* values"),
    ("input_layer", "batch_shape", [None, 5], r"'first' .*height, width, channels"),
]


@pytest.mark.parametrize(("name", "key", "value", "message"), REFUSED_SETTINGS)
def test_settings_that_are_not_understood_are_refused_by_name(tmp_path, name, key, value, message):
    model = config()
    layer(model, name)["config"][key] = value
    with pytest.raises(ModelFileRefused, match=message):
        load_keras(write(tmp_path, archive(model)))


def test_settings_that_only_training_knows_are_ignored(tmp_path, expected):
    model = config()
    layer(model, "last")["config"] |= {
        "kernel_regularizer": {"module": "evil", "class_name": "Boom", "registered_name": "evil>Boom"},
        "bias_constraint": {"class_name": "function"},
        "quantization_config": None,
        "from_a_later_keras": None,
    }
    layer(model, "first")["config"]["trainable"] = False
    model["compile_config"] = {"optimizer": {"module": "evil", "class_name": "Boom"}, "loss": {"class_name": "evil"}}
    path = write(tmp_path, archive(model))
    np.testing.assert_array_equal(answers(path), expected)
    assert not load_keras(path).layers[0].trainable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_name": "Lambda"}, "'flatten' .Lambda.: its code is in the file"),
        ({"class_name": "Flaten"}, r"this class cannot be read. Did you mean 'Flatten'\?"),
        ({"class_name": "LSTM"}, "this class cannot be read"),
        ({"class_name": "__import__('os').system"}, "this class cannot be read"),
        ({"class_name": "x" * 2000}, "must be a short text"),
        ({"class_name": None}, "must be a short text"),
        ({"module": "evil"}, "custom class .'evil'"),
        ({"module": "builtins"}, "custom class .'builtins'"),
        ({"module": "kerasevil.layers"}, "custom class"),
        ({"module": "keras.layers\nimport os"}, "custom class"),
        ({"module": ["keras"]}, "custom class"),
        ({"registered_name": "evil>Flatten"}, "custom class .*'evil>Flatten'"),
        ({"config": 3}, "the config of layer .* must be a JSON object"),
        ({"class_name": "InputLayer"}, "input in the middle"),
        ({"class_name": "Sequential"}, "the model's layers must be a JSON array"),
    ],
)
def test_classes_that_are_not_keras_own_are_refused(tmp_path, change, message):
    model = config()
    item = layer(model, "flatten")
    item |= change
    with pytest.raises(ModelFileRefused, match=message):
        load_keras(write(tmp_path, archive(model)))


def test_a_custom_model_class_is_refused(tmp_path):
    assert "custom class" in refusal(tmp_path, config() | {"module": "evil", "class_name": "Net"})
    assert "only Sequential and Functional" in refusal(tmp_path, config() | {"class_name": "LSTM"})


def test_branches_are_refused_by_name(tmp_path):
    model = functional_config()
    layers = model["config"]["layers"]
    add = copy.deepcopy(layers[3]) | {"class_name": "Add", "name": "plus"}
    add["config"]["name"] = "plus"
    add["inbound_nodes"][0]["args"] = [add["inbound_nodes"][0]["args"] * 2]
    layers.append(add)
    assert "'plus' takes several inputs" in refusal(tmp_path, model)
    add["inbound_nodes"][0]["args"] = add["inbound_nodes"][0]["args"][0]
    assert "'plus' has 2 inputs" in refusal(tmp_path, model)
    add["inbound_nodes"][0]["args"] = add["inbound_nodes"][0]["args"][:1]
    assert "the output of layer 'flatten' goes to more than one layer" in refusal(tmp_path, model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers[2]["inbound_nodes"].append(layers[2]["inbound_nodes"][0]), "'flatten' is used 2 times"),
        (lambda layers: layers[2]["inbound_nodes"][0]["kwargs"].update(training=True), "called with 'training'=True"),
        (lambda layers: layers[1].update(inbound_nodes=[]), "'first' is used 0 times"),
        (lambda layers: layers[1].update(inbound_nodes=3), "must be a JSON array"),
        (lambda layers: layers[2].update(name="first"), "same name"),
        (lambda layers: layers.pop(2), "no chain of layers leads"),
        (lambda layers: layers.pop(0), "is not among its layers"),
        (lambda layers: layers[3]["inbound_nodes"][0]["args"][0]["config"].update(keras_history=["a", 0, 1]), "0, 0"),
        (lambda layers: layers[3]["inbound_nodes"][0]["args"].__setitem__(0, 4), "must be a JSON object"),
    ],
)
def test_functional_models_that_are_no_chain_are_refused(tmp_path, change, message):
    model = functional_config()
    change(model["config"]["layers"])
    assert message in refusal(tmp_path, model)


def test_a_cycle_is_refused(tmp_path):
    model = functional_config()
    model["config"]["output_layers"] = ["nowhere", 0, 0]
    assert "no chain of layers" in refusal(tmp_path, model)
    model["config"]["output_layers"] = [["last", 0, 0], ["first", 0, 0]]
    assert "2 output_layers" in refusal(tmp_path, model)


def test_too_large_networks_are_refused_before_they_take_memory(tmp_path):
    model = config()
    layer(model, "last")["config"]["units"] = 1 << 27
    assert "values a sample" in refusal(tmp_path, model)
    layer(model, "last")["config"]["units"] = 1 << 22
    assert "parameters" in refusal(tmp_path, model)
    layer(model, "first")["config"] |= {"kernel_size": [1 << 30, 1 << 30], "padding": "same"}
    assert "too many weights" in refusal(tmp_path, model) or "parameters" in refusal(tmp_path, model)
    model = config()
    model["config"]["layers"] += [entry("Flatten", f"flatten_{number}") for number in range(600)]
    assert "604 layers; at most 500" in refusal(tmp_path, model)


def test_models_nested_too_deeply_are_refused(tmp_path):
    model = config()
    for _ in range(6):
        model = config() | {"config": config()["config"] | {"layers": [model]}}
    assert "nested more than 4 deep" in refusal(tmp_path, model)


@pytest.mark.parametrize("layers", [[], [entry("Identity", "same")], None, {}, [3]])
def test_models_without_layers_are_refused(tmp_path, layers):
    model = config()
    model["config"]["layers"] = layers
    refusal(tmp_path, model)


def test_a_model_without_an_input_shape_is_refused(tmp_path):
    model = config()
    del model["config"]["layers"][0], model["config"]["build_input_shape"]
    assert "Input((28, 28, 1))" in refusal(tmp_path, model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[1]", "must be a JSON object"),
        ("{" * 100_000, "nested too deeply|not JSON"),
        ('{"a":' * 100_000, "nested too deeply|not JSON"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply|not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        ('{"a": NaN}', "not JSON"),
        ('{"a": "' + "x" * (5 << 20) + '"}', "unpacks to"),
        (json.dumps({"class_name": "Sequential"}), "the model's config must be a JSON object"),
    ],
)
def test_descriptions_that_are_no_reasonable_json_are_refused(tmp_path, text, message):
    with pytest.raises(ModelFileRefused, match=message):
        load_keras(write(tmp_path, archive(text)))
