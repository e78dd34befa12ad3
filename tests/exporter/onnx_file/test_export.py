import getpass
import logging
import os
import re
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from conveyor_exporter.errors import ExportFailed
from conveyor_exporter.layers import Conv2D, Dense, Flatten
from conveyor_exporter.models import Sequential
from conveyor_exporter.onnx_file.export import export_onnx, to_bytes
from conveyor_exporter.onnx_file.metadata import Metadata
from conveyor_exporter.verification.verify import verify

ANSWERS = Metadata.for_units(1, ["no", "yes"])


def test_the_tutorials_network_is_six_named_nodes(exported_tutorial):
    graph = exported_tutorial[1].graph
    assert [(node.op_type, node.name) for node in graph.node] == [
        ("Reshape", "conv2d/channels_first"),
        ("Conv", "conv2d"),
        ("Relu", "conv2d/relu"),
        ("Conv", "dense"),
        ("ReduceSum", "dense/reducesum"),
        ("Sigmoid", "dense/sigmoid"),
    ]
    assert [tensor.name for tensor in graph.initializer] == [
        *("conv2d.bias", "conv2d.kernel", "conv2d/channels_first.shape"),
        *("dense.bias", "dense.kernel", "dense/reducesum.axes"),
    ]


def axes(value):
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_the_batch_axis_is_open_and_named_at_both_ends(exported_tutorial):
    graph = exported_tutorial[1].graph
    assert [(value.name, axes(value)) for value in graph.input] == [("image", ["batch", 28, 28, 1])]
    assert [(value.name, axes(value)) for value in graph.output] == [("probability", ["batch", 1])]


def test_versions_are_pinned_low(exported_tutorial):
    model = exported_tutorial[1]
    assert (model.ir_version, [(opset.domain, opset.version) for opset in model.opset_import]) == (8, [("", 18)])


def test_onnxruntime_fuses_the_activations(exported_tutorial, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the optimised file is for this machine only, which is wanted here
    onnxruntime.InferenceSession(to_bytes(exported_tutorial[1]), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    assert [node.op_type for node in nodes] == ["Reshape", "Conv", "Conv", "ReorderOutput", "ReduceSum", "Sigmoid"]
    assert [a.s for a in nodes[1].attribute if a.name == "activation"] == [b"Relu"]


def test_nothing_but_the_graph_is_left(exported_tutorial):
    model = exported_tutorial[1]
    graph = model.graph
    assert not any(part.doc_string for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info))
    assert not any(part.metadata_props for part in (graph, *graph.node, *graph.input, *graph.output))
    assert not any(tensor.external_data for tensor in graph.initializer)
    assert model.producer_name == "conveyor"


EXPORT = """
import sys
import numpy as np
from conveyor_exporter.layers import Conv2D, Dense, Flatten
from conveyor_exporter.onnx_file.metadata import Metadata
from conveyor_exporter.models import Sequential
from conveyor_exporter.onnx_file.export import export_onnx, to_bytes
network = Sequential([Conv2D(16, 3, activation="relu", input_shape=(28, 28, 1)), Flatten(), Dense(1, "sigmoid")])
generator = np.random.default_rng(0)
network.set_weights([generator.normal(0, 0.05, w.shape) for w in network.get_weights()])
metadata = Metadata.for_units(1, ["even", "odd"], training_metrics={"b": 1, "a": 2})
sys.stdout.buffer.write(to_bytes(export_onnx(network, network.input_shape, metadata)))
"""


def test_the_same_weights_give_the_same_bytes_anywhere_and_name_no_machine(tmp_path):
    folders = [tmp_path / "a", tmp_path / "somewhere" / "else"]
    processes = []
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        (folder / f"program{number}.py").write_text(EXPORT)
        environment = os.environ | {"PYTHONHASHSEED": str(number + 1)}
        command = [sys.executable, f"program{number}.py"]
        processes.append(
            subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert [errors for _, errors in results] == [b"", b""]
    content = results[0][0]
    traces = {str(tmp_path), str(Path.home()), str(Path.cwd()), sys.prefix, "program0", ".py", getpass.getuser()}
    traces.add(socket.gethostname())
    strings = b"\n".join(re.findall(rb"[\x20-\x7e]{4,}", content)).decode()
    assert "conveyor.labels" in strings
    assert [trace for trace in traces if len(trace) > 2 and trace.lower() in strings.lower()] == []


NETWORKS = {
    "two spatial layers": lambda: [
        Conv2D(4, 3, strides=2, padding="same", activation="relu", input_shape=(9, 8, 2)),
        Conv2D(6, (2, 3), dilation_rate=2, padding="same", activation="leaky_relu"),
        Flatten(),
        Dense(5, activation="relu"),
        Dense(3, activation="softmax"),
    ],
    "groups, no bias": lambda: [
        Conv2D(4, 3, groups=2, use_bias=False, input_shape=(6, 5, 2)),
        Flatten(),
        Dense(3, activation="softmax", use_bias=False),
    ],
    "softmax over channels": lambda: [
        Conv2D(4, 2, activation="softmax", input_shape=(4, 5, 1)),
        Flatten(),
        Dense(3, activation="softmax"),
    ],
    "dense before flatten": lambda: [
        Conv2D(4, 2, input_shape=(4, 5, 1)),
        Dense(3, activation="tanh"),
        Conv2D(2, 2, activation="silu"),
        Flatten(),
        Dense(3, activation="softmax"),
    ],
    "flatten twice": lambda: [Conv2D(4, 2, input_shape=(4, 5, 1)), Flatten(), Flatten(), Dense(3, "softmax")],
    "flatten last": lambda: [Conv2D(2, 2, input_shape=(3, 4, 1)), Flatten()],
    "conv last": lambda: [Conv2D(2, 2, activation="sigmoid", input_shape=(3, 4, 1))],
    "no spatial layer": lambda: [Flatten(input_shape=(3, 4, 2)), Dense(3, activation="softmax")],
    "awkward names": lambda: [
        Conv2D(2, 2, name="image", input_shape=(3, 4, 1)),
        Flatten(name="probability"),
        Dense(1, name="conv2d", activation="sigmoid"),
    ],
}


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
def test_the_file_gives_the_networks_answers(layers, with_random_biases):
    network = Sequential(layers())
    with_random_biases(network)
    content = to_bytes(export_onnx(network, network.input_shape, ANSWERS))
    verification = verify(content, network.predict, network.input_shape)
    assert verification.passed, verification


def test_asymmetric_padding_is_inside_the_convolution():
    network = Sequential([Conv2D(4, 3, strides=2, padding="same", input_shape=(8, 8, 1)), Flatten(), Dense(1)])
    graph = export_onnx(network, network.input_shape, ANSWERS).graph
    assert "Pad" not in [node.op_type for node in graph.node]
    pads = [list(a.ints) for node in graph.node for a in node.attribute if a.name == "pads"]
    assert pads == [[0, 0, 1, 1]]


def test_the_network_keeps_its_weights_mode_and_gradients(tutorial_network):
    tutorial_network.train()
    before = tutorial_network.get_weights()
    export_onnx(tutorial_network, tutorial_network.input_shape, ANSWERS)
    assert tutorial_network.training
    assert all(parameter.requires_grad for parameter in tutorial_network.parameters())
    for weight, kept in zip(tutorial_network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)


class Plain(nn.Module):
    """A module of someone else, batch norm and all."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        return torch.sigmoid(self.head(self.body(x.flatten(1))))


def test_any_module_exports():
    module = Plain()
    model = export_onnx(module, (2, 2, 1), ANSWERS)
    assert module.training
    assert [node.name for node in model.graph.node][-2:] == ["head", "sigmoid"]
    module.eval()
    verification = verify(to_bytes(model), lambda x: module(torch.from_numpy(x)).detach().numpy(), (2, 2, 1))
    assert verification.passed, verification


class FrozenBatch(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x.flatten(1)[:2, :1])


class Untraceable(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :1] * (1 if x.sum() > 0 else 2)


@pytest.mark.parametrize(
    ("module", "message"), [(FrozenBatch(), "does not stay open"), (Untraceable(), "torch cannot express")]
)
def test_what_cannot_be_exported_says_why(module, message):
    with pytest.raises(ExportFailed, match=message):
        export_onnx(module, (2, 2, 1), ANSWERS)


def test_an_unbuilt_network_is_refused():
    with pytest.raises(ValueError, match="give its first layer `input_shape`"):
        export_onnx(Sequential([Dense(1)]), (3,), ANSWERS)


def test_export_is_quiet_and_swallows_nothing_of_others(tutorial_network, capfd):
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    filters = list(logger.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_onnx(tutorial_network, tutorial_network.input_shape, ANSWERS)
    assert [str(warning.message) for warning in caught] == []
    assert capfd.readouterr() == ("", "")
    assert logger.filters == filters
