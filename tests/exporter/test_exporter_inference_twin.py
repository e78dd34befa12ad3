"""The twin gives the network's answers, whatever the chain, in few nodes."""

import copy
import itertools
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conveyor_exporter import activations
from conveyor_exporter.errors import InvalidInput
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
    SpatialLayer,
    ZeroPadding2D,
)
from conveyor_exporter.models import Sequential
from conveyor_exporter.onnx_file.export import export_onnx, to_bytes
from conveyor_exporter.onnx_file.inference_twin import InferenceTwin
from conveyor_exporter.onnx_file.metadata import Metadata

ANSWERS = Metadata.for_units(1, ["no", "yes"])
SHAPE = (9, 8, 3)


def network(*layers, shape=SHAPE):
    model = Sequential([Input(shape), *layers])
    generator = np.random.default_rng(4)
    for layer in model.layers:
        weights = [generator.normal(0, 0.5, weight.shape) for weight in layer.get_weights()]
        if isinstance(layer, BatchNormalization):
            weights[-1] = np.abs(weights[-1]) + 0.2
        layer.set_weights(weights)
    return model.eval()


def parts(*layers, shape=SHAPE):
    """Return the names and kinds of a twin's parts, after a look whether it gives the network's answers."""
    model = network(*layers, shape=shape)
    return [f"{name}: {type(part).__name__}" for name, part in same_answers(model.double()).named_children()]


def same_answers(model):
    images = torch.from_numpy(np.random.default_rng(1).normal(size=(3, *model.input_shape)))
    twin = InferenceTwin(model).eval()
    with torch.no_grad():
        expected, got = model(images), twin(images)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    return twin


LAYERS = {
    "conv": lambda: Conv2D(3, (2, 3), padding="same", strides=2),
    "valid conv": lambda: Conv2D(3, 2, groups=3, use_bias=False),
    "relu conv": lambda: Conv2D(4, 1, activation="relu", padding="valid"),
    "softmax conv": lambda: Conv2D(3, 2, padding="same", activation="softmax"),
    "depthwise": lambda: DepthwiseConv2D(2, depth_multiplier=2, padding="same"),
    "valid depthwise": lambda: DepthwiseConv2D(2, use_bias=False),
    "separable": lambda: SeparableConv2D(4, 2, activation="tanh", padding="same"),
    "valid separable": lambda: SeparableConv2D(3, 2, depth_multiplier=2, use_bias=False),
    "max": lambda: MaxPooling2D(2, 1, padding="same"),
    "average": lambda: AveragePooling2D((3, 2), (2, 1), padding="same"),
    "global max": lambda: GlobalMaxPooling2D(),
    "global average": lambda: GlobalAveragePooling2D(keepdims=True),
    "batch norm": lambda: BatchNormalization(),
    "batch norm without scale": lambda: BatchNormalization(scale=False, center=False),
    "relu": lambda: ReLU(max_value=2, negative_slope=0.1),
    "leaky relu": lambda: LeakyReLU(),
    "linear": lambda: Activation("linear"),
    "softmax activation": lambda: Activation("log_softmax"),
    "function": lambda: Activation(lambda x: x - x.mean(-1, keepdim=True)),
    "softmax": lambda: Softmax(),
    "softmax over height": lambda: Softmax(1),
    "dropout": lambda: Dropout(0.5),
    "rescaling": lambda: Rescaling(0.5, offset=0.25),
    "rescaling of channels": lambda: Rescaling([0.5, 0.25, 2.0]),
    "padding": lambda: ZeroPadding2D(((1, 0), (2, 1))),
    "reshape": lambda: Reshape((-1, 3)),
    "reshape to an image": lambda: Reshape((-1, 1, 3)),
    "reshape to features": lambda: Reshape((-1,)),
    "flatten": lambda: Flatten(),
    "dense": lambda: Dense(3),
    "tanh dense": lambda: Dense(4, activation="tanh", use_bias=False),
}


@pytest.mark.filterwarnings("ignore:.*softmax over an axis of size 1")
@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=9))
def test_any_chain_gives_the_same_answers(names):
    model = Sequential([Input(SHAPE)])
    for name in names:
        try:
            model.add(LAYERS[name]())
        except InvalidInput:
            continue  # it does not fit there
    if model.layers:
        same_answers(network(*model.layers).double())


def test_a_stack_folds_to_its_bones():
    assert parts(
        *(Conv2D(4, 3), BatchNormalization(), ReLU(), MaxPooling2D(), Dropout(0.3)),
        *(SeparableConv2D(4, 2), BatchNormalization(), Activation("relu"), GlobalAveragePooling2D(), Dense(2)),
    ) == [
        *("conv2d/channels_first: Turn", "conv2d: Convolution", "re_lu: Step", "max_pooling2d: Pooling"),
        *("separable_conv2d/depthwise: Convolution", "separable_conv2d/pointwise: Convolution", "activation: Step"),
        *("global_average_pooling2d: Step", "dense: Dense"),
    ]


FOLDED = {
    "behind a convolution": [Conv2D(4, 2, padding="same", use_bias=False), BatchNormalization()],
    "behind a depthwise one": [DepthwiseConv2D(2, depth_multiplier=2, padding="same"), BatchNormalization(scale=False)],
    "behind a separable one": [SeparableConv2D(4, 2, use_bias=False), BatchNormalization(center=False)],
    "behind a Dense": [Flatten(), Dense(4), BatchNormalization(), ReLU()],
    "behind a dropout": [Conv2D(4, 2), Dropout(0.5), BatchNormalization()],
    "twice": [Conv2D(4, 2), BatchNormalization(), BatchNormalization(), Rescaling(2.0, 1.0)],
    "before a valid convolution": [BatchNormalization(), Conv2D(4, 2)],
    "before one with groups": [Conv2D(6, 1, activation="relu"), BatchNormalization(), Conv2D(4, 2, groups=2)],
    "before a depthwise one": [BatchNormalization(), DepthwiseConv2D(2, depth_multiplier=3, use_bias=False)],
    "before a separable one": [BatchNormalization(), SeparableConv2D(2, 2, depth_multiplier=3)],
    "before a Dense, past Flatten": [Conv2D(4, 2, activation="relu"), BatchNormalization(), Flatten(), Dense(2)],
    "past averages": [Conv2D(4, 2, activation="relu"), BatchNormalization(), AveragePooling2D(2, padding="same"),
                      GlobalAveragePooling2D(), Dense(2)],
    "a scale alone, past zeros": [Rescaling(0.5), ZeroPadding2D(1), Conv2D(2, 2, padding="same")],
    "first of all": [Rescaling([0.5, 1.0, 2.0], offset=-1.0), Conv2D(2, 2)],
}  # fmt: skip


@pytest.mark.parametrize("layers", FOLDED.values(), ids=FOLDED)
def test_scales_and_shifts_are_folded(layers):
    kinds = " ".join(parts(*copy.deepcopy(layers)))
    assert "Normalization" not in kinds
    assert "rescaling" not in kinds


def test_a_batch_norm_goes_past_a_maximum_only_when_no_scale_is_negative():
    def kinds(gamma):
        model = network(Conv2D(4, 2, activation="relu"), BatchNormalization(), MaxPooling2D(), Conv2D(2, 2))
        norm = model.layers[1]
        norm.set_weights([np.full(4, gamma), *norm.get_weights()[1:]])
        return [type(part).__name__ for part in same_answers(model.double()).children()]

    assert "Normalization" not in kinds(0.5)
    assert "Normalization" in kinds(-0.5)


KEPT = {
    "before a padded convolution": [
        Conv2D(4, 2, activation="relu"),
        BatchNormalization(),
        Conv2D(2, 2, padding="same"),
    ],
    "before a border": [Conv2D(4, 2, activation="relu"), BatchNormalization(), ZeroPadding2D(), Conv2D(2, 2)],
    "before an activation": [Conv2D(4, 2, activation="relu"), BatchNormalization(), ReLU(), Conv2D(2, 2)],
    "over flat features": [Conv2D(4, 2), Flatten(), BatchNormalization(), ReLU(), Dense(2)],
    "last": [Flatten(), Dense(3, activation="relu"), BatchNormalization()],
}


@pytest.mark.parametrize("layers", KEPT.values(), ids=KEPT)
def test_a_batch_norm_stays_where_folding_were_wrong(layers):
    names = parts(*copy.deepcopy(layers))
    assert names.count("batch_normalization: Normalization") == 1
    assert not [name for name in names if "channels_last" in name and not name.startswith("output/")]


def test_nothing_is_turned_back_on_the_way_to_a_dense():
    names = parts(Conv2D(4, 2), Flatten(), LeakyReLU(), Dropout(0.1), Activation("softmax"), Dense(3), Softmax())
    assert sum("Turn" in name for name in names) == 1
    names = parts(Conv2D(4, 2), Dense(5, activation="tanh"), Conv2D(2, 2), Softmax(2), Reshape((-1,)), Dense(1))
    assert sum("Turn" in name for name in names) == 1
    assert parts(GlobalMaxPooling2D(), Dense(2)) == ["global_max_pooling2d: GlobalMaxPooling2D", "dense: Dense"]


def test_an_image_at_the_end_is_turned_once():
    names = parts(Conv2D(4, 2), MaxPooling2D(), Conv2D(2, 2, activation="softmax"))
    assert names[0] == "conv2d/channels_first: Turn"
    assert names[-1] == "output/channels_last: Turn"
    assert sum("Turn" in name for name in names) == 2


def test_the_network_stays_as_it_was():
    model = network(Conv2D(4, 2), BatchNormalization(), ZeroPadding2D(), SeparableConv2D(2, 2), Flatten(), Dense(1))
    before, images = model.get_weights(), torch.rand(2, *SHAPE)
    state = torch.get_rng_state()
    answers = model(images)
    InferenceTwin(model)
    assert torch.equal(model(images), answers)
    assert torch.equal(torch.get_rng_state(), state)
    for weight, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)


def test_the_twin_has_the_precision_of_the_network():
    twin = InferenceTwin(network(Conv2D(4, 2), BatchNormalization(), Rescaling([1.0, 2.0, 3.0, 4.0]), Softmax()))
    tensors = [*twin.parameters(), *twin.buffers()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


class Brightest(SpatialLayer):
    """A layer of someone else."""

    def __init__(self, **options):
        super().__init__(None, options)

    def output_shape_for(self, input_shape):
        return input_shape

    def compute_channels_first(self, inputs):
        return inputs / inputs.amax((2, 3), keepdim=True)


def test_a_layer_of_someone_else_keeps_its_meaning():
    names = parts(Conv2D(4, 2, activation="relu"), Brightest(), Conv2D(2, 2), Flatten(), Dense(2))
    assert names[2:4] == ["brightest/channels_last: Turn", "brightest: Brightest"]


class Many(nn.Module):
    """Several networks beside one another, so that one export serves them all."""

    def __init__(self, models):
        super().__init__()
        self.models = nn.ModuleList(InferenceTwin(model) for model in models)

    def forward(self, images):
        return torch.cat([model(images).flatten(1) for model in self.models], 1)


def run_onnx(program, images, optimized=True):
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(to_bytes(program), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def agree_in_onnx(models, folder=None):
    """Export several networks in one file, run it, and return the file; with a folder, run it by an old runtime too."""
    shape = models[0].input_shape
    images = np.random.default_rng(0).normal(0, 2, size=(3, *shape)).astype(np.float32)
    program = export_onnx(Many(models).eval(), shape, ANSWERS)
    doubled = torch.from_numpy(images.astype(np.float64))
    expected = torch.cat([copy.deepcopy(model).double()(doubled).flatten(1) for model in models], 1).detach().numpy()
    for optimized in (True, False):
        np.testing.assert_allclose(run_onnx(program, images, optimized), expected, rtol=2e-5, atol=2e-5)
    if folder is not None:
        np.testing.assert_allclose(run_old(program, images, folder), expected, rtol=2e-5, atol=2e-5)
    return program


OLD_PYTHON = Path(".tools/onnxruntime-1.17/bin/python")
OLD_PROGRAM = """
import numpy, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
numpy.save("outputs.npy", session.run(None, {"image": numpy.load("images.npy")})[0])
"""


def run_old(program, images, folder):
    assert OLD_PYTHON.exists(), "run the tests with: make test"
    (folder / "model.onnx").write_bytes(to_bytes(program))
    np.save(folder / "images.npy", images)
    subprocess.run([OLD_PYTHON.absolute(), "-c", OLD_PROGRAM], cwd=folder, check=True, capture_output=True)
    return np.load(folder / "outputs.npy")


def fitting(layers, shape):
    """Return a network of each layer that fits the shape."""
    models = []
    for layer in layers:
        try:
            models.append(network(layer, shape=shape))
        except InvalidInput:
            continue
    return models


def operators(program):
    return [node.op_type for node in program.graph.node]


PADDINGS = ("valid", "same")
SPACINGS = (((2, 3), 1), (1, 2))  # strides, dilation_rate


def convolutions():
    for kernel, (strides, dilation), padding in itertools.product([(3, 2)], SPACINGS, PADDINGS):
        shared = {"strides": strides, "padding": padding, "dilation_rate": dilation}
        yield DepthwiseConv2D(kernel, depth_multiplier=2, **shared)
        yield SeparableConv2D(3, kernel, **shared)
        yield Conv2D(2, kernel, groups=2, **shared)


@pytest.mark.parametrize("shape", [(5, 6, 2)])
def test_convolutions_run_in_onnxruntime_without_a_pad_node(shape):
    program = agree_in_onnx(fitting(convolutions(), shape))
    assert set(operators(program)) == {"Transpose", "Conv", "Reshape", "Concat"}


@pytest.mark.parametrize(("kind", "operator"), [(MaxPooling2D, "MaxPool"), (AveragePooling2D, "AveragePool")])
def test_poolings_run_in_onnxruntime_without_a_pad_node(kind, operator):
    grid = itertools.product([1, 2, 3, (2, 3)], [None, 1, 2, (1, 3)], PADDINGS)
    program = agree_in_onnx(fitting((kind(size, strides, padding) for size, strides, padding in grid), (5, 6, 2)))
    assert set(operators(program)) == {"Transpose", operator, "Reshape", "Concat"}


def test_all_other_layers_run_in_onnxruntime(tmp_path):
    layers = [layer() for name, layer in LAYERS.items() if name != "function"]
    layers += [BatchNormalization(epsilon=0.1), ReLU(), ReLU(6), ReLU(threshold=0.5), GlobalMaxPooling2D(keepdims=True)]
    agree_in_onnx([network(layer) for layer in layers], tmp_path)


def test_all_activations_run_in_onnxruntime(tmp_path):
    models = [network(Conv2D(3, 1, activation=name), shape=(2, 3, 2)) for name in sorted(activations.NAMED)]
    for name in ("softmax", "log_softmax", "hard_silu"):
        models += [network(layer, shape=(2, 3, 2)) for layer in (Dense(2, activation=name), Activation(name))]
    agree_in_onnx(models, tmp_path)


@pytest.mark.parametrize("name", sorted({*activations.NAMED} - {"softmax", "log_softmax", "exponential"}))
def test_activations_survive_extremes(name):
    x = torch.tensor([-1e4, -104.0, -20.0, 20.0, 104.0, 1e4])
    assert torch.isfinite(activations.get(name, "Dense")(x)).all()


@pytest.fixture(scope="module")
def stack():
    model = network(
        *(Conv2D(8, 3), BatchNormalization(), ReLU(), MaxPooling2D()),
        *(Conv2D(8, 3, padding="same", strides=2), BatchNormalization(), ReLU()),
        *(SeparableConv2D(8, 3, padding="same", activation="relu6"), GlobalAveragePooling2D(), Dense(1, "sigmoid")),
        shape=(16, 16, 3),
    )
    return model, export_onnx(model, model.input_shape, ANSWERS)


def test_a_stack_is_a_short_graph_with_the_names_of_its_layers(stack):
    graph = stack[1].graph
    assert [(node.op_type, node.name) for node in graph.node] == [
        ("Transpose", "conv2d/channels_first"),
        ("Conv", "conv2d"),
        ("Relu", "re_lu"),
        ("MaxPool", "max_pooling2d"),
        ("Conv", "conv2d_1"),
        ("Relu", "re_lu_1"),
        ("Conv", "separable_conv2d/depthwise"),
        ("Conv", "separable_conv2d/pointwise"),
        ("Clip", "separable_conv2d/pointwise/clip"),
        ("ReduceMean", "global_average_pooling2d"),
        ("Gemm", "dense"),
        ("Sigmoid", "dense/sigmoid"),
    ]
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert weights == {
        *("conv2d.kernel", "conv2d.bias", "conv2d_1.kernel", "conv2d_1.bias", "separable_conv2d/depthwise.kernel"),
        *("separable_conv2d/pointwise.kernel", "separable_conv2d/pointwise.bias", "dense.kernel", "dense.bias"),
        *("separable_conv2d/pointwise/clip.min", "separable_conv2d/pointwise/clip.max"),
    }


def test_the_stack_gives_the_same_answers(stack):
    model, program = stack
    images = np.random.default_rng(2).random((7, 16, 16, 3)).astype(np.float32)
    expected = model.predict(images)
    for optimized in (True, False):
        np.testing.assert_allclose(run_onnx(program, images, optimized), expected, atol=1e-6)


def test_onnxruntime_fuses_every_convolution_with_its_activation(stack, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the optimised file is for this machine only, which is wanted here
    onnxruntime.InferenceSession(to_bytes(stack[1]), options, providers=["CPUExecutionProvider"])
    found = operators(onnx.load(tmp_path / "optimized.onnx"))
    assert not {"Relu", "Clip", "Sigmoid", "BatchNormalization", "Pad"} & set(found)
    assert found.count("Transpose") <= 1


def test_a_batch_norm_that_stays_is_one_node_in_inference_form():
    model = network(Conv2D(4, 2, activation="relu"), BatchNormalization(), Conv2D(2, 2, padding="same"), Flatten())
    program = export_onnx(model, model.input_shape, ANSWERS)
    (node,) = [node for node in program.graph.node if node.op_type == "BatchNormalization"]
    assert node.name == "batch_normalization"
    assert len(node.output) == 1
    assert list(node.input)[1:] == [
        f"batch_normalization.{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")
    ]
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes["epsilon"] == pytest.approx(1e-3)
    assert attributes.get("training_mode", 0) == 0


def test_a_border_before_a_convolution_is_its_padding():
    model = network(ZeroPadding2D(((1, 0), (2, 1))), Conv2D(4, 3, strides=2), Flatten(), Dense(1))
    program = export_onnx(model, model.input_shape, ANSWERS)
    assert operators(program) == ["Transpose", "Conv", "Reshape", "Gemm"]
    pads = [list(a.ints) for node in program.graph.node for a in node.attribute if a.name == "pads"]
    assert pads == [[1, 2, 0, 1]]
