"""The graph gives the network's answers, whatever the chain, in few nodes."""

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
from conveyor_exporter.onnx_file.file_format import FLOAT32_FILE, IR_VERSIONS, FileFormat, Precision
from conveyor_exporter.onnx_file.float16 import to_float16
from conveyor_exporter.onnx_file.int8 import to_int8
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


def run_onnx(program, images, optimized=True):
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(to_bytes(program), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def images_and_answers(model):
    """Return images with what the network says to them in float64."""
    images = np.random.default_rng(0).normal(0, 2, size=(3, *model.input_shape)).astype(np.float32)
    doubled = torch.from_numpy(images.astype(np.float64))
    return images, copy.deepcopy(model).double()(doubled).detach().numpy()


def check(model, form=FLOAT32_FILE):
    """Return the file of a network, after a look whether it gives the network's answers."""
    program = export_onnx(model, model.input_shape, ANSWERS, form)
    images, expected = images_and_answers(model)
    for optimized in (True, False):
        assert_close(run_onnx(program, images, optimized), expected)
    return program


def assert_close(got, expected):
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5 + 1e-5 * np.abs(expected).max())


def written(*layers, shape=SHAPE):
    """Return the names and operators of the nodes that a chain of layers becomes."""
    return [f"{node.name}: {node.op_type}" for node in check(network(*layers, shape=shape)).graph.node]


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
    "glu": lambda: Conv2D(4, 2, padding="same", activation="glu"),
    "glu activation": lambda: Activation("glu"),
    "sparsemax": lambda: Activation("sparsemax"),
    "one unit": lambda: Dense(1, activation="tanh"),
    "many filters": lambda: Conv2D(16, 2, activation="relu"),
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
@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=9), st.sampled_from(Precision))
def test_any_chain_gives_the_same_answers(names, precision):
    model = Sequential([Input(SHAPE)])
    for name in names:
        try:
            model.add(LAYERS[name]())
        except InvalidInput:
            continue  # it does not fit there
    if model.layers:
        check(network(*model.layers), FileFormat(precision=precision))


def test_a_stack_folds_to_its_bones():
    assert written(
        *(Conv2D(4, 3), BatchNormalization(), ReLU(), MaxPooling2D(), Dropout(0.3)),
        *(SeparableConv2D(4, 2), BatchNormalization(), Activation("relu"), GlobalAveragePooling2D(), Dense(2)),
    ) == [
        *("conv2d/channels_first: Transpose", "conv2d: Conv", "re_lu: Relu", "max_pooling2d: MaxPool"),
        *("separable_conv2d/depthwise: Conv", "separable_conv2d/pointwise: Conv", "activation: Relu"),
        *("global_average_pooling2d: GlobalAveragePool", "global_average_pooling2d/flatten: Flatten", "dense: Gemm"),
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
    nodes = " ".join(written(*copy.deepcopy(layers)))
    assert "BatchNormalization" not in nodes
    assert "rescaling" not in nodes


def test_a_batch_norm_goes_past_a_maximum_only_when_no_scale_is_negative():
    def operators_with(gamma):
        model = network(Conv2D(4, 2, activation="relu"), BatchNormalization(), MaxPooling2D(), Conv2D(2, 2))
        norm = model.layers[1]
        norm.set_weights([np.full(4, gamma), *norm.get_weights()[1:]])
        return operators(check(model))

    assert "BatchNormalization" not in operators_with(0.5)
    assert "BatchNormalization" in operators_with(-0.5)


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
    names = written(*copy.deepcopy(layers))
    assert names.count("batch_normalization: BatchNormalization") == 1
    assert not [name for name in names if "channels_last" in name and not name.startswith("output/")]


def test_one_channel_is_turned_without_a_copy():
    names = written(Conv2D(1, 2), MaxPooling2D(), Dense(1), Conv2D(2, 2), Flatten(), Dense(2), shape=(9, 8, 1))
    assert [name for name in names if "channels_" in name] == ["conv2d/channels_first: Reshape"]
    names = written(Conv2D(1, 2), Reshape((7, 8, 1)), Conv2D(2, 2), Flatten(), Dense(2), shape=(9, 8, 2))
    assert [name for name in names if "channels_first" in name] == [
        *("conv2d/channels_first: Transpose", "conv2d_1/channels_first: Reshape"),
    ]


def test_attributes_that_onnx_takes_anyway_are_not_written():
    def attributes(layer):
        program = check(network(layer, shape=(9, 8, 2)))
        (node,) = [node for node in program.graph.node if node.name == layer.name]
        return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}

    assert attributes(Conv2D(4, 3)) == {}
    assert attributes(Conv2D(4, 3, strides=2, padding="same", groups=2)) == {
        "group": 2, "pads": [1, 0, 1, 1], "strides": [2, 2]
    }  # fmt: skip
    assert attributes(Conv2D(4, 3, dilation_rate=(1, 2))) == {"dilations": [1, 2]}
    assert attributes(MaxPooling2D(2, strides=1)) == {"kernel_shape": [2, 2]}


def transposes(*layers):
    return [name for name in written(*layers) if name.endswith(": Transpose")]


def test_nothing_is_turned_back_on_the_way_to_a_dense():
    chain = [Conv2D(4, 2), Flatten(), LeakyReLU(), Dropout(0.1), Activation("softmax"), Dense(3), Softmax()]
    assert transposes(*chain) == ["conv2d/channels_first: Transpose"]
    chain = [Conv2D(4, 2), Dense(5, activation="tanh"), Conv2D(2, 2), Softmax(2), Reshape((-1,)), Dense(1)]
    assert transposes(*chain) == ["conv2d/channels_first: Transpose"]
    chain = [Conv2D(4, 2), Flatten(), Rescaling(list(range(1, 225))), Activation("sparsemax"), Dense(2)]
    assert transposes(*chain) == ["conv2d/channels_first: Transpose"]
    assert written(GlobalMaxPooling2D(), Dense(2)) == ["global_max_pooling2d: ReduceMax", "dense: Gemm"]


def test_flat_features_are_turned_back_before_what_looks_at_their_order():
    names = written(Conv2D(4, 2), Flatten(), Activation("glu"), Dense(2))
    assert names[3:7] == [
        *("activation/unflatten: Reshape", "activation/channels_last: Transpose", "activation/flatten: Flatten"),
        "activation: Split",
    ]
    assert transposes(Conv2D(4, 2), Flatten(), Reshape((2, -1)), Dense(2))[1:] == ["reshape/channels_last: Transpose"]


def test_an_image_at_the_end_is_turned_once():
    names = written(Conv2D(4, 2), MaxPooling2D(), Conv2D(2, 2, activation="softmax"))
    assert names[0] == "conv2d/channels_first: Transpose"
    assert names[-1] == "output/channels_last: Transpose"
    assert sum("Transpose" in name for name in names) == 2


IMAGE_SUM = ["dense: Conv", "dense/reducesum: ReduceSum", "dense/sigmoid: Sigmoid"]


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("between", [[], [MaxPooling2D()], [Dropout(0.5)], [BatchNormalization()]])
def test_one_unit_over_an_image_is_a_convolution_and_a_sum(between, use_bias):
    names = written(Conv2D(16, 2), *copy.deepcopy(between), Flatten(), Dense(1, "sigmoid", use_bias=use_bias))
    assert names[-3:] == IMAGE_SUM
    assert len([name for name in names if name.startswith("flatten")]) == 0


@pytest.mark.parametrize(
    "layers",
    [
        [Conv2D(15, 2), Flatten(), Dense(1)],  # onnxruntime takes 16 channels together
        [Conv2D(16, 2), Flatten(), Dense(2)],
        [Conv2D(16, 2), Flatten(), ReLU(), Dense(1)],
        [Conv2D(16, (9, 8)), Flatten(), Dense(1)],  # an image of one pixel
        [Conv2D(16, 2), GlobalAveragePooling2D(), Dense(1)],
        [Flatten(), Dense(1)],
    ],
)
def test_everything_else_is_one_gemm(layers):
    assert written(*layers)[-1] == "dense: Gemm"


def test_an_image_of_many_pixels_is_one_gemm_whose_roundings_add_up_to_less():
    layers = [Conv2D(16, 1, activation="relu"), Flatten(), Dense(1)]
    assert written(*copy.deepcopy(layers), shape=(64, 64, 1))[-1] == "dense/reducesum: ReduceSum"
    assert written(*layers, shape=(64, 65, 1))[-1] == "dense: Gemm"


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FLOAT16])
def test_a_file_for_smaller_numbers_has_no_image_sum(precision):
    model = network(Conv2D(16, 2), Flatten(), Dense(1))
    assert operators(check(model, FileFormat(precision=precision)))[-2:] == ["Flatten", "Gemm"]


def test_the_network_stays_as_it_was():
    model = network(Conv2D(4, 2), BatchNormalization(), ZeroPadding2D(), SeparableConv2D(2, 2), Flatten(), Dense(1))
    before, images = model.get_weights(), torch.rand(2, *SHAPE)
    state = torch.get_rng_state()
    answers = model(images)
    export_onnx(model, SHAPE, ANSWERS)
    assert torch.equal(model(images), answers)
    assert torch.equal(torch.get_rng_state(), state)
    for weight, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)


def test_weights_are_float32_whatever_the_network_has():
    model = network(Conv2D(4, 2), BatchNormalization(), Rescaling([1.0, 2.0, 3.0, 4.0]), Softmax()).double()
    kinds = {tensor.data_type for tensor in export_onnx(model, SHAPE, ANSWERS).graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT}


class Brightest(SpatialLayer):
    """A layer of someone else."""

    def __init__(self, **options):
        super().__init__(None, options)

    def output_shape_for(self, input_shape):
        return input_shape

    def compute_channels_first(self, inputs):
        return inputs / inputs.amax((2, 3), keepdim=True)


class Doubled(Dense):
    """A layer of ours that someone else has changed."""

    def compute(self, inputs):
        return 2 * super().compute(inputs)


class Turned(Sequential):
    """A network that is more than the chain of its layers."""

    def forward(self, inputs):
        return super().forward(torch.as_tensor(inputs).flip(1))


FOREIGN = {
    "layer": lambda: network(Conv2D(4, 2, activation="relu"), Brightest(), Conv2D(2, 2), Flatten(), Dense(2)),
    "changed layer": lambda: network(Conv2D(4, 2), Flatten(), Doubled(2)),
    "function": lambda: network(Conv2D(4, 2, activation=lambda x: x - x.mean(-1, keepdim=True)), Flatten(), Dense(2)),
    "network": lambda: Turned(network(Conv2D(4, 2), Flatten(), Dense(2)).layers),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_what_is_someone_elses_goes_through_torch_and_keeps_its_meaning(make):
    program = check(make().eval())
    assert {"conv2d", "dense"} & {node.name for node in program.graph.node} or make is FOREIGN["changed layer"]


OLD_PYTHON = Path(__file__).parents[3] / ".tools" / "onnxruntime-1.17" / "bin" / "python"
OLD_PROGRAM = """
import numpy, onnxruntime, pathlib
for place in pathlib.Path().iterdir():
    session = onnxruntime.InferenceSession(str(place / "model.onnx"), providers=["CPUExecutionProvider"])
    numpy.save(place / "outputs.npy", session.run(None, {"image": numpy.load(place / "images.npy")})[0])
"""


def check_old(models, folder):
    """Check what an old runtime says to the files of several networks."""
    assert OLD_PYTHON.exists(), "run the tests with: make test"
    expected = []
    for number, model in enumerate(models):
        images, answers = images_and_answers(model)
        place = folder / str(number)
        place.mkdir()
        (place / "model.onnx").write_bytes(to_bytes(export_onnx(model, model.input_shape, ANSWERS)))
        np.save(place / "images.npy", images)
        expected.append(answers)
    subprocess.run([OLD_PYTHON, "-c", OLD_PROGRAM], cwd=folder, check=True, capture_output=True)
    for number, answers in enumerate(expected):
        assert_close(np.load(folder / str(number) / "outputs.npy"), answers)


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


def test_convolutions_run_in_onnxruntime_without_a_pad_node():
    for model in fitting(convolutions(), (5, 6, 2)):
        assert set(operators(check(model))) == {"Transpose", "Conv"}


@pytest.mark.parametrize(("kind", "operator"), [(MaxPooling2D, "MaxPool"), (AveragePooling2D, "AveragePool")])
def test_poolings_run_in_onnxruntime_without_a_pad_node(kind, operator):
    grid = itertools.product([1, 2, 3, (2, 3)], [None, 1, 2, (1, 3)], PADDINGS)
    for model in fitting((kind(size, strides, padding) for size, strides, padding in grid), (5, 6, 2)):
        assert set(operators(check(model))) == {"Transpose", operator}


def test_all_other_layers_run_in_onnxruntime(tmp_path):
    layers = [make() for make in LAYERS.values()]
    layers += [BatchNormalization(epsilon=0.1), ReLU(), ReLU(6), ReLU(threshold=0.5), GlobalMaxPooling2D(keepdims=True)]
    layers += [ReLU(3, 0.5, 0.25), ReLU(negative_slope=0.5), ReLU(negative_slope=0.5, threshold=1), Rescaling(1.0)]
    models = [*fitting(layers, SHAPE), network(Conv2D(16, 2), Flatten(), Dense(1))]
    for model in models:
        check(model)
    check_old(models, tmp_path)


def test_all_activations_run_in_onnxruntime(tmp_path):
    models = [network(Conv2D(4, 1, activation=name), shape=(2, 3, 2)) for name in sorted(activations.NAMED)]
    models.append(network(Dense(4, activation=activations.hard_sigmoid_of_keras_2), shape=(2, 3, 2)))
    for name in ("softmax", "log_softmax", "hard_silu", "glu", "sparsemax"):
        models += [network(layer, shape=(2, 3, 2)) for layer in (Dense(2, activation=name), Activation(name))]
    for model in models:
        check(model)
    check_old(models, tmp_path)


TO_SMALLER_NUMBERS = {
    Precision.FLOAT16: (lambda program, images: to_float16(program), 0.01),
    Precision.INT8: (to_int8, 0.15),
}


@pytest.mark.parametrize("precision", TO_SMALLER_NUMBERS)
def test_all_layers_and_activations_have_a_form_of_smaller_numbers(precision):
    change, tolerance = TO_SMALLER_NUMBERS[precision]
    names = {*activations.NAMED} - {"exponential"}  # which leaves the range of float16
    layers = [*(make() for make in LAYERS.values()), *(Dense(4, activation=name) for name in names)]
    for model in fitting(layers, SHAPE):
        images, expected = images_and_answers(model)
        program = change(export_onnx(model, SHAPE, ANSWERS, FileFormat(precision=precision)), images)
        onnx.checker.check_model(program, full_check=True)
        np.testing.assert_allclose(run_onnx(program, images), expected, atol=tolerance * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("opset", sorted(IR_VERSIONS))
def test_all_layers_and_activations_are_valid_in_every_opset(opset):
    layers = [*(make() for make in LAYERS.values()), *(Dense(4, activation=name) for name in activations.NAMED)]
    for model in fitting(layers, SHAPE):
        program = export_onnx(model, SHAPE, ANSWERS, FileFormat(opset=opset))
        images, expected = images_and_answers(model)
        assert_close(run_onnx(program, images), expected)


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
        ("GlobalAveragePool", "global_average_pooling2d"),
        ("Flatten", "global_average_pooling2d/flatten"),
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
    assert operators(program) == ["Transpose", "Conv", "Flatten", "Gemm"]
    pads = [list(a.ints) for node in program.graph.node for a in node.attribute if a.name == "pads"]
    assert pads == [[1, 2, 0, 1]]
