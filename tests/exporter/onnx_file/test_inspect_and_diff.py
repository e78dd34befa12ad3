import copy
import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from conveyor_exporter.__main__ import run
from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.onnx_file.comparison import differences
from conveyor_exporter.onnx_file.inspection import describe_layers
from conveyor_exporter.onnx_file.model_file import read_model
from conveyor_exporter.report.model_report import inspect_model


@pytest.fixture
def files(exported_tutorial, tmp_path):
    """The tutorial's file, and a copy of it that a test may change and save."""
    model = exported_tutorial[1]
    onnx.save(model, tmp_path / "a.onnx")
    return tmp_path / "a.onnx", tmp_path / "b.onnx", copy.deepcopy(model)


def test_layers_have_their_operators_and_cost(exported_tutorial):
    rows = [
        (each.name, each.operators, each.output_shape, each.parameters, each.multiply_adds, each.activation_bytes)
        for each in describe_layers(exported_tutorial[1])
    ]
    channels_first, features = 28 * 28 * 4, 16 * 26 * 26
    assert rows == [
        ("conv2d", ("Reshape", "Conv", "Relu"), (16, 26, 26), 160, features * 9, channels_first + 2 * features * 4),
        ("dense", ("Conv", "ReduceSum", "Sigmoid"), (1,), features + 16, features, (16 + 1 + 1) * 4),
    ]


def graph_of(node, weight, image=(1, 4, 5, 5)):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *image[1:]])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    weights = [numpy_helper.from_array(np.zeros(weight, np.float32), "w")]
    graph = helper.make_graph([node], "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize(
    ("operator", "attributes", "weight", "image", "expected"),
    [
        ("Conv", {"group": 2}, (6, 2, 3, 3), (1, 4, 5, 5), 6 * 3 * 3 * 2 * 9),
        ("ConvTranspose", {}, (4, 3, 2, 2), (1, 4, 5, 5), 4 * 5 * 5 * 3 * 4),
        ("Gemm", {"transB": 1}, (3, 7), (1, 7), 3 * 7),
        ("Gemm", {}, (7, 3), (1, 7), 3 * 7),
        ("MatMul", {}, (5, 2), (1, 4, 5), 4 * 2 * 5),
    ],
)
def test_multiply_adds_are_counted_for_one_image(operator, attributes, weight, image, expected):
    node = helper.make_node(operator, ["x", "w"], ["y"], "n", **attributes)
    (layer,) = describe_layers(graph_of(node, weight, image))
    assert layer.multiply_adds == expected
    assert layer.parameters == np.prod(weight)


def test_what_is_not_known_is_none():
    (layer,) = describe_layers(graph_of(helper.make_node("Mystery", ["x"], ["y"], domain="of.nobody"), (1,)))
    assert (layer.name, layer.output_shape, layer.activation_bytes) == ("y", None, None)


def test_inspect_prints_a_table(files, capsys):
    assert run(["inspect", str(files[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{files[0]}  {files[0].stat().st_size:,} bytes"
    assert "inputs     image  float32 [batch, 28, 28, 1]" in lines
    assert "outputs    probability  float32 [batch, 1]" in lines
    assert 'conveyor.labels            ["even", "odd"]' in lines
    assert any(line.split()[:4] == ["conv2d", "Reshape", "Conv", "Relu"] for line in lines)
    assert lines[-1].split() == ["in", "all", "6", "nodes", "10,992", "108,160", "89,736"]


def test_inspect_prints_json(files, capsys):
    assert run(["inspect", str(files[0]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(inspect_model(files[0])))
    assert found["metadata"]["conveyor.labels"] == ["even", "odd"]
    assert found["totals"]["parameters"] == 10992
    assert found["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["batch", 28, 28, 1]}]


def test_text_of_a_file_cannot_steer_the_terminal(files, capsys):
    _, path, model = files
    model.metadata_props.add(key="note", value="\x1b[2J\x07red")
    model.graph.node[0].name = "[bold]x\n"
    onnx.save(model, path)
    assert run(["inspect", str(path)]) == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "\x07" not in output
    assert "[bold]x" in output


def nodes(model, name):
    return next(node for node in model.graph.node if node.name == name)


def weight(model, name, change):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))


def one_higher(values):
    values.flat[3] += 0.25
    return values


CHANGES = {
    "input": (lambda m: setattr(m.graph.input[0], "name", "picture"), "signature", "input 0"),
    "opset": (lambda m: setattr(m.opset_import[0], "version", 19), "signature", "opset ai.onnx"),
    "ir": (lambda m: setattr(m, "ir_version", 9), "signature", "IR version"),
    "metadata": (lambda m: setattr(m.metadata_props[0], "value", "9"), "metadata", "conveyor.exporter_version"),
    "operator": (lambda m: setattr(nodes(m, "conv2d/relu"), "op_type", "Abs"), "operators", "node 2"),
    "attribute": (lambda m: setattr(nodes(m, "dense").attribute[0], "i", 8), "operators", "node 3"),
    "tensor attribute": (
        lambda m: nodes(m, "conv2d").attribute.append(helper.make_attribute("t", numpy_helper.from_array(np.ones(2)))),
        "operators",
        "node 1",
    ),
    "lost input": (lambda m: nodes(m, "dense").input.pop(), "operators", "node 3"),
    "weight": (lambda m: weight(m, "conv2d.kernel", one_higher), "weights", "conv2d.kernel"),
    "nan": (lambda m: weight(m, "dense.bias", lambda w: w * np.nan), "weights", "dense.bias"),
    "shape": (lambda m: weight(m, "dense.bias", lambda w: w[None]), "weights", "dense.bias"),
    "no weight": (lambda m: m.graph.initializer.pop(0), "weights", "conv2d.bias"),
    "function": (lambda m: m.functions.add(name="f", domain="d"), "other", "parts that are not shown here"),
}


@pytest.mark.parametrize(("change", "kind", "what"), CHANGES.values(), ids=CHANGES)
def test_diff_finds(files, capsys, change, kind, what):
    first, second, model = files
    change(model)
    onnx.save(model, second)
    assert (kind, what) in [(each.kind, each.what) for each in differences(onnx.load(first), model)]
    assert run(["diff", str(first), str(second)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert kind in lines
    assert any(line.startswith(f"  {what}") for line in lines)


def test_the_largest_difference_of_a_weight_is_named(files, capsys):
    first, second, model = files
    weight(model, "conv2d.kernel", one_higher)
    onnx.save(model, second)
    assert run(["diff", str(first), str(second), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["equal"] is False
    (only,) = report["differences"]
    assert (only["kind"], only["what"], only["largest"]) == ("weights", "conv2d.kernel", pytest.approx(0.25))


def test_equal_files_are_equal(files, capsys):
    first, second, model = files
    assert run(["diff", str(first), str(first)]) == 0
    assert "the same bytes" in capsys.readouterr().out
    constants = list(model.graph.initializer)[::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
    model.graph.doc_string = "a note"
    onnx.save(model, second)
    assert run(["diff", str(first), str(second)]) == 0
    assert "only in order or in notes" in capsys.readouterr().out


def external(path):
    tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../secret")
    graph = helper.make_graph([helper.make_node("Relu", ["w"], ["y"])], "g", [], [], [tensor])
    path.write_bytes(helper.make_model(graph).SerializeToString())


BROKEN = {
    "empty": (lambda path: path.write_bytes(b""), "no ONNX file"),
    "text": (lambda path: path.write_bytes(b"not a model at all"), "no ONNX file"),
    "folder": (lambda path: path.mkdir(), "cannot read"),
    "nothing": (lambda path: None, "cannot read"),
    "external": (external, "keeps weights in other files"),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_onnx_file_is_one_clear_line(files, tmp_path, capsys, make, message):
    make(tmp_path / "broken")
    assert run(["inspect", str(tmp_path / "broken")]) == 1
    assert run(["diff", str(files[0]), str(tmp_path / "broken")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(message in line for line in errors)


def test_a_broken_weight_is_one_clear_line(files, capsys):
    first, second, model = files
    model.graph.initializer[0].raw_data = b"123"
    onnx.save(model, second)
    assert run(["diff", str(first), str(second)]) == 2
    assert "'conv2d.bias' cannot be read" in capsys.readouterr().err


def test_a_name_that_is_no_text_is_refused(files, capsys):
    first, second, model = files
    second.write_bytes(model.SerializeToString().replace(b"conv2d", b"conv\xe2d"))
    for command, code in ((["inspect", str(second)], 1), (["diff", str(first), str(second)], 2)):
        assert run(command) == code
        assert "is broken: a name in it is not UTF-8" in capsys.readouterr().err


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_described_but_never_a_crash(exported_tutorial, tmp_path_factory, data):
    content = bytearray(exported_tutorial[1].SerializeToString())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        json.dumps(inspect_model(path))
        differences(read_model(path).model, exported_tutorial[1])
    except ModelFileRefused:
        pass
