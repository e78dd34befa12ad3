"""The forms of a file (bytes in, logits out, float16, int8, versions): each proven, small, and the same on rebuild."""

import copy
import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import nn

from conveyor_exporter import export, pipeline
from conveyor_exporter.demo import digits
from conveyor_exporter.errors import ExportFailed, VerificationFailed
from conveyor_exporter.layers import Conv2D, Dense, Flatten
from conveyor_exporter.models import Sequential
from conveyor_exporter.onnx_file.calibration import split_off_calibration
from conveyor_exporter.onnx_file.export import export_onnx
from conveyor_exporter.onnx_file.file_format import HIGHEST_IR_VERSION, IR_VERSIONS, FileFormat
from conveyor_exporter.onnx_file.float16 import to_float16
from conveyor_exporter.onnx_file.inspection import describe_layers
from conveyor_exporter.onnx_file.metadata import Metadata
from conveyor_exporter.pictures.labelled_data import LabelledData

OLD_PYTHON = Path(__file__).parents[3] / ".tools" / "onnxruntime-1.17" / "bin" / "python"


@pytest.fixture(scope="session")
def trained():
    """A small network that reads digits fairly well, and digits that it has not seen."""
    training, test = digits.split(digits.load_digits(), seed=0)
    torch.manual_seed(0)
    network = Sequential(
        [
            Conv2D(8, 5, strides=2, activation="relu", input_shape=(28, 28, 1)),
            Conv2D(8, 3, padding="same", strides=2, activation="relu"),
            Flatten(),
            Dense(10, activation="softmax"),
        ]
    )
    network.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    network.fit(training.images, training.labels, batch_size=16, epochs=2, verbose=0)
    rows = np.arange(0, len(test), 4)
    return network, LabelledData(test.images[rows], test.labels[rows])


def published(trained, folder, **options):
    network, data = trained
    exported = export(network, folder, name="digits", data=data, **options)
    return exported, onnx.load(exported.published.path)


def session(exported):
    return onnxruntime.InferenceSession(exported.published.path, providers=["CPUExecutionProvider"])


def ends(model):
    return [
        (value.name, TensorProto.DataType.Name(value.type.tensor_type.elem_type))
        for value in (*model.graph.input, *model.graph.output)
    ]


FORMS = {
    "uint8": {"input_dtype": "uint8"},
    "logits": {"logits": True},
    "float16": {"precision": "float16"},
    "int8": {"precision": "int8"},
    "float16, uint8, logits": {"precision": "float16", "input_dtype": "uint8", "logits": True},
    "int8, uint8, logits": {"precision": "int8", "input_dtype": "uint8", "logits": True},
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_a_form_is_checked_named_and_the_same_on_rebuild(trained, tmp_path, options, capfd):
    exported, model = published(trained, tmp_path, **options)
    assert exported.published.sha256 == published(trained, tmp_path, **options)[0].published.sha256
    onnx.checker.check_model(model, full_check=True)
    dtype = "UINT8" if "input_dtype" in options else "FLOAT"
    outputs = [("probabilities", "FLOAT"), ("logits", "FLOAT")] if "logits" in options else [("probabilities", "FLOAT")]
    assert ends(model) == [("image", dtype), *outputs]
    assert (model.ir_version, [(entry.domain, entry.version) for entry in model.opset_import]) == (8, [("", 18)])
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert model.producer_name == "conveyor"
    assert all(node.name.split("/")[0] in PARTS for node in model.graph.node), model.graph.node
    assert b"/tmp" not in exported.published.path.read_bytes()
    assert capfd.readouterr() == ("", "")


PARTS = {"image", "conv2d", "conv2d_1", "flatten", "dense"}


def test_bytes_are_scaled_inside_the_file(trained, tmp_path):
    network, data = trained
    exported, model = published(trained, tmp_path, input_dtype="uint8")
    pixels = np.rint(data.images * 255).astype(np.uint8)
    (answers,) = session(exported).run(None, {"image": pixels})
    np.testing.assert_allclose(answers, network.predict(data.images), atol=1e-5)
    assert [node.name for node in model.graph.node][:3] == ["conv2d/channels_first", "image/cast", "image/mul"]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["conveyor.input.dtype"] == "uint8"
    assert properties["conveyor.input.range"] == "[0.0, 255.0]"
    assert exported.verification.accuracy.model == exported.verification.accuracy.file


@pytest.mark.parametrize(
    ("input_range", "operators"),
    [((0, 255), ["Cast"]), ((0, 1), ["Cast", "Mul"]), ((-1, 1), ["Cast", "Mul", "Add"])],
)
def test_bytes_stand_for_the_input_range(tmp_path, input_range, operators):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Softmax(1))
    with torch.no_grad():
        module[1].weight /= max(map(abs, input_range))
    exported = export(module, tmp_path, name="m", input_shape=(2, 2, 1), input_range=input_range, input_dtype="uint8")
    nodes = [node.op_type for node in onnx.load(exported.published.path).graph.node]
    assert nodes == ["Reshape", *operators, "Gemm", "Softmax"]


def test_bytes_are_scaled_behind_what_only_moves_them(trained, tmp_path):
    """On [..., 1], in front of the first Transpose, onnxruntime multiplies 50 times slower."""
    _, model = published(trained, tmp_path, precision="int8", input_dtype="uint8")
    (scaled,) = (node for node in model.graph.node if node.name == "image/cast")
    assert list(scaled.input) == ["conv2d/channels_first"]


@pytest.mark.parametrize("units", [1, 10])
def test_logits_are_what_the_head_gets(tmp_path, units, trained):
    if units == 10:
        exported, _ = published(trained, tmp_path, logits=True)
    else:
        network = Sequential([Flatten(input_shape=(28, 28, 1)), Dense(1, activation="sigmoid")])
        exported = export(network, tmp_path, name="m", logits=True)
    names = [output.name for output in session(exported).get_outputs()]
    probabilities, logits = session(exported).run(names, {"image": trained[1].images[:9]})
    assert names == [names[0], "logits"]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    wanted = 1 / (1 + np.exp(-logits)) if units == 1 else powers / powers.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, wanted, atol=1e-6)


class Clamped(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :1].clamp(0, 1)


def test_logits_need_a_head(tmp_path):
    with pytest.raises(ExportFailed, match="ends in a sigmoid or a softmax; this one ends in Clip"):
        export(Clamped(), tmp_path, name="m", input_shape=(2, 2, 1), logits=True)


def test_float16_halves_the_file_and_keeps_its_ends_and_its_head(trained, tmp_path):
    exported, model = published(trained, tmp_path, precision="float16")
    whole, _ = published(trained, tmp_path)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["conv2d.kernel/float16"] == TensorProto.FLOAT16
    nodes = [(node.op_type, node.name) for node in model.graph.node]
    assert nodes[0] == ("Cast", "image/float16")
    assert nodes[-2:] == [("Cast", "dense/float32"), ("Softmax", "dense/softmax")]
    weights = [sum(len(t.raw_data) for t in m.graph.initializer) for m in (model, onnx.load(whole.published.path))]
    assert weights[0] < 0.52 * weights[1]
    assert 1e-6 < exported.verification.worst < 1e-2
    assert exported.verification.limit == pipeline.FLOAT16_LIMIT


def test_a_weight_beyond_float16_is_an_error_that_names_it():
    network = Sequential([Flatten(input_shape=(2, 2, 1)), Dense(1, activation="sigmoid")])
    network.set_weights([np.full((4, 1), 1e5), np.zeros(1)])
    program = export_onnx(network, (2, 2, 1), Metadata.for_units(1, ["a", "b"]))
    with pytest.raises(ExportFailed, match=r"dense.kernel reaches 1e\+05"):
        to_float16(program)


def test_int8_is_small_has_a_scale_for_each_channel_and_loses_little(trained, tmp_path):
    exported, model = published(trained, tmp_path, precision="int8", max_drop=0.02)
    assert exported.published.size < 0.75 * published(trained, tmp_path)[0].published.size
    scales = next(tensor for tensor in model.graph.initializer if tensor.name == "conv2d.kernel_scale")
    assert list(scales.dims) == [8]
    nodes = [node.op_type for node in model.graph.node]
    assert nodes[-1] == "Softmax"
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(nodes)
    layers = {layer.name: layer for layer in describe_layers(model)}
    assert list(layers) == ["conv2d", "conv2d_1", "flatten", "dense"]
    assert layers["dense"].multiply_adds == 8 * 6 * 6 * 10
    assert layers["dense"].activation_bytes < 200  # weights that are dequantised are no activations
    accuracy = exported.verification.accuracy
    assert accuracy.samples == 125
    assert abs(accuracy.model - accuracy.file) <= 0.02
    measured = f"accuracy {accuracy.file:.2%} (model {accuracy.model:.2%}) on 125"
    assert f"{measured} labelled samples, calibrated with 125 others" in str(exported.verification)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["conveyor.verification"])["calibration_samples"] == 125


def test_no_picture_both_calibrates_and_measures():
    images = np.arange(1000, dtype=np.float32).reshape(1000, 1)
    labels = np.arange(1000) % 2  # at even distances all would be of one class
    calibration, measured = split_off_calibration(LabelledData(images, labels))
    assert (len(calibration), len(measured)) == (256, 744)
    assert sorted([*calibration.ravel(), *measured.images.ravel()]) == list(range(1000))
    assert 0.4 < (calibration % 2).mean() < 0.6
    np.testing.assert_array_equal(measured.labels, measured.images.ravel() % 2)
    calibration, measured = split_off_calibration(LabelledData(images[:21], labels[:21]))
    assert (len(calibration), len(measured)) == (10, 11)
    np.testing.assert_array_equal(calibration, split_off_calibration(LabelledData(images[:21], labels[:21]))[0])


def test_too_few_pictures_cannot_say_what_int8_costs(trained, tmp_path):
    network, data = trained
    few = LabelledData(data.images[:19], data.labels[:19])
    with pytest.raises(ValueError, match=r"int8 needs at least 20 labelled pictures, .* got 19"):
        export(network, tmp_path, name="m", data=few, precision="int8")
    with pytest.raises(ValueError, match=r"int8 is calibrated with at least 10 pictures, got 9"):
        export(network, tmp_path, name="m", data=few, precision="int8", calibration=data.images[:9])
    with pytest.raises(ValueError, match=r"`calibration` must be \[samples, 28, 28, 1\], got \[250, 784\]"):
        export(network, tmp_path, name="m", data=few, precision="int8", calibration=data.images.reshape(250, -1))


def test_pictures_to_calibrate_with_leave_all_others_to_measure_on(trained, tmp_path):
    calibration = trained[1].images[:100]
    exported, _ = published(trained, tmp_path, precision="int8", max_drop=0.02, calibration=calibration)
    assert (exported.verification.accuracy.samples, exported.verification.calibration_samples) == (250, 100)


def test_an_accuracy_that_drops_too_far_publishes_nothing(trained, tmp_path):
    network, data = trained
    bright = data.images[:20] * 1e5  # int8 then has no steps left for the other pictures
    with pytest.raises(VerificationFailed, match=r"the int8 ONNX file[^|]*points lower, at most 1.00 are allowed"):
        export(network, tmp_path, name="m", data=data, calibration=bright, precision="int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_numbers_need_labelled_data(trained, tmp_path, precision):
    with pytest.raises(ValueError, match=f"{precision} needs labelled data"):
        export(trained[0], tmp_path, name="m", precision=precision)


def test_a_broken_float32_file_is_caught_before_it_is_made_smaller(trained, tmp_path, monkeypatch):
    real = pipeline.export_onnx

    def careless(*arguments):
        program = real(*arguments)
        next(node for node in program.graph.node if node.name == "dense").input.pop()
        return program

    network = copy.deepcopy(trained[0])
    weights = network.get_weights()
    network.set_weights([*weights[:-1], weights[-1] + np.linspace(0, 0.1, 10)])
    monkeypatch.setattr(pipeline, "export_onnx", careless)
    with pytest.raises(VerificationFailed, match="the float32 ONNX file"):
        published((network, trained[1]), tmp_path, precision="int8", max_drop=0.5)


def test_what_was_verified_is_published_byte_for_byte_with_the_evidence_behind_it(trained, tmp_path, monkeypatch):
    verified = []
    real = pipeline.verify
    monkeypatch.setattr(pipeline, "verify", lambda *arguments: (verified.append(arguments[0]), real(*arguments))[1])
    exported, model = published(trained, tmp_path)
    content = exported.published.path.read_bytes()
    assert content.startswith(verified[-1])
    bare = onnx.load_from_string(verified[-1])
    assert model.graph == bare.graph
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert list(properties) == sorted(properties)
    assert properties.keys() - {entry.key for entry in bare.metadata_props} == {"conveyor.verification"}
    assert model.SerializeToString(deterministic=True) == content
    evidence = json.loads(properties["conveyor.verification"])
    assert evidence["accuracy"]["samples"] == 250
    assert evidence["worst_difference"] < evidence["limit"] == 1e-5
    assert evidence["batches"] == [1, 2, 7, 64]
    assert set(evidence["inputs"]) == {"random", "zeros", "ones", "extremes", "far outside", "data"}


@pytest.mark.parametrize(("opset", "ir_version"), [(18, None), (20, 10), (23, None)])
def test_versions_can_be_chosen(tmp_path, opset, ir_version):
    network = Sequential([Flatten(input_shape=(2, 2, 1)), Dense(1, activation="sigmoid")])
    exported = export(network, tmp_path, name="m", opset=opset, ir_version=ir_version)
    model = onnx.load(exported.published.path)
    assert model.opset_import[0].version == opset
    assert model.ir_version == (ir_version or IR_VERSIONS[opset])


def test_ir_versions_are_those_of_the_opsets():
    for opset, version in IR_VERSIONS.items():
        assert onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]) == version
    assert onnx.IR_VERSION >= HIGHEST_IR_VERSION


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 17}, "between 18 and 23"),
        ({"opset": 24}, "between 18 and 23"),
        ({"opset": 19, "ir_version": 8}, "between 9, which opset 19 needs, and 13"),
        ({"ir_version": 14}, "between 8, which opset 18 needs, and 13"),
        ({"input_dtype": "unit8"}, "Did you mean 'uint8'"),
        ({"precision": "float61"}, "Did you mean 'float16'"),
    ],
)
def test_forms_that_cannot_be_are_refused(options, message):
    given = {"input_dtype": "float32", "logits": False, "precision": "float32"}
    with pytest.raises(ValueError, match=message):
        FileFormat.of(**(given | options))


RUN_OLD = """
import sys, numpy, onnxruntime
assert onnxruntime.__version__.startswith("1.17"), onnxruntime.__version__
for path in sys.argv[1:]:
    session = onnxruntime.InferenceSession(path + "/model.onnx", providers=["CPUExecutionProvider"])
    answers = session.run(None, {"image": numpy.load(path + "/sent.npy")})
    numpy.savez(path + "/answers.npz", *answers)
"""


def test_an_old_onnxruntime_gives_the_same_answers(trained, tmp_path):
    assert OLD_PYTHON.exists(), "run the tests with: make test"
    images = trained[1].images[:20]
    forms = [{}, *FORMS.values()]
    paths = []
    for options in forms:
        exported, _ = published(trained, tmp_path, **options)
        paths.append(exported.published.path.parent)
        sent = np.rint(images * 255).astype(np.uint8) if "input_dtype" in options else images
        np.save(paths[-1] / "sent.npy", sent)
    subprocess.run([OLD_PYTHON, "-c", RUN_OLD, *map(str, paths)], check=True, timeout=60)
    for path, options in zip(paths, forms, strict=True):
        model = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
        wanted = model.run(None, {"image": np.load(path / "sent.npy")})
        with np.load(path / "answers.npz") as answers:
            for name, value in zip(answers.files, wanted, strict=True):
                np.testing.assert_allclose(answers[name], value, atol=2e-2 if "precision" in options else 1e-5)
