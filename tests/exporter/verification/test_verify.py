"""The verification must catch what can go wrong between a network and its file: here it is made to go wrong."""

import copy
import json
import math
import re
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from conveyor_exporter.errors import MissingDependency
from conveyor_exporter.onnx_file.export import to_bytes
from conveyor_exporter.pictures.labelled_data import LabelledData
from conveyor_exporter.verification.conditions import BATCHES, Conditions
from conveyor_exporter.verification.evidence import Accuracy, Comparison, Verification
from conveyor_exporter.verification.verify import verify


@pytest.fixture
def broken(exported_tutorial):
    network, model = exported_tutorial
    model = copy.deepcopy(model)

    def verified(images=None):
        data = None if images is None else LabelledData(images, np.zeros(len(images), int))
        return verify(to_bytes(model), network.predict, network.input_shape, Conditions(data=data))

    return model, verified


def change(model, name, function):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(function(numpy_helper.to_array(tensor).copy())), name))


def node(model, name):
    return next(node for node in model.graph.node if node.name == name)


def test_a_sound_file_passes_on_every_case(broken):
    _, verified = broken
    verification = verified(np.random.default_rng(0).uniform(size=(70, 28, 28, 1)))
    assert verification.passed
    assert {(case.inputs, case.batch, case.optimized) for case in verification.comparisons} == {
        (inputs, batch, optimized)
        for inputs in ("random", "zeros", "ones", "extremes", "far outside", "data")
        for batch in BATCHES
        for optimized in (False, True)
    }
    assert max(case.difference for case in verification.comparisons if case.inputs != "far outside") < 1e-6
    assert all(case.agreement == 1 for case in verification.comparisons)
    assert verification.accuracy.model == verification.accuracy.file
    assert verification.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert "48 comparisons" in str(verification)
    assert "70 labelled samples" in str(verification)


def one_value(weights):
    weights.flat[weights.size // 2] += 0.01
    return weights


BREAKAGES = {
    "one kernel value": lambda model: change(model, "conv2d.kernel", one_value),
    "one dense value": lambda model: change(model, "dense.kernel", one_value),
    "kernel axes swapped": lambda model: change(model, "conv2d.kernel", lambda w: w.transpose(0, 1, 3, 2)),
    "flatten order not folded": lambda model: change(
        model, "dense.kernel", lambda w: w.reshape(26, 26, 16).transpose(2, 0, 1).reshape(w.shape)
    ),
    "bias of the convolution lost": lambda model: node(model, "conv2d").input.pop(),
    "bias of the dense layer lost": lambda model: node(model, "dense").input.pop(),
    "a weight is nan": lambda model: change(model, "dense.bias", lambda w: w * np.nan),
    "image axes swapped": lambda model: node(model, "conv2d/channels_first").CopyFrom(
        onnx.helper.make_node("Transpose", ["image"], ["conv2d/channels_first"], perm=[0, 3, 2, 1])
    ),
    "another activation": lambda model: setattr(node(model, "conv2d/relu"), "op_type", "Abs"),
    "no head": lambda model: setattr(node(model, "dense/sigmoid"), "op_type", "Identity"),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_file_is_caught(broken, breakage):
    model, verified = broken
    breakage(model)
    verification = verified()
    assert not verification.passed
    table = str(verification)
    assert "comparisons differ by more than their limit" in table
    assert re.search(r"random +1 +off +probability +\S+ +1e-05", table)


def test_an_error_that_only_real_inputs_show_is_caught(broken):
    model, verified = broken
    bright = np.zeros((1, 28, 28, 1), np.float32)
    bright[0, 14, 14] = 1000  # further out than the made-up inputs
    graph = model.graph
    bounds = [numpy_helper.from_array(np.float32(bound), name) for bound, name in ((-20, "low"), (20, "high"))]
    graph.initializer.extend(bounds)
    graph.node.insert(0, onnx.helper.make_node("Clip", ["image", "low", "high"], ["clipped"]))
    node(model, "conv2d/channels_first").input[0] = "clipped"
    assert verified().passed
    assert {case.inputs for case in verified(bright).failed} == {"data"}


@pytest.mark.parametrize("content", [b"", b"not onnx"])
def test_a_file_that_does_not_load_is_a_finding_not_an_exception(content):
    verification = verify(content, lambda x: x[:, 0, 0], (2, 2, 1))
    assert not verification.passed
    assert verification.worst == math.inf
    assert "cannot be loaded" in str(verification)


def test_another_shape_is_a_finding(exported_tutorial):
    network, model = exported_tutorial
    verification = verify(to_bytes(model), lambda x: network.predict(x)[:, 0], network.input_shape)
    assert "shape [1, 1] instead of [1]" in str(verification)


def test_nan_is_above_any_limit_and_no_comparison_proves_nothing():
    nan = Verification((Comparison("random", 1, True, math.nan, math.inf),))
    assert not nan.passed
    assert nan.worst == math.inf
    assert not Verification(()).passed
    assert str(Verification(())) == "nothing was compared"


def test_a_lower_accuracy_is_a_failure_and_says_by_how_much():
    equal = (Comparison("random", 1, True, 0.0, 1e-5),)
    assert Verification(equal, Accuracy(1000, 0.957, 0.947, max_drop=0.01)).passed
    worse = Verification(equal, Accuracy(1000, 0.957, 0.946, max_drop=0.01))
    assert not worse.passed
    assert "1.10 points lower, at most 1.00 are allowed" in str(worse)


def test_the_evidence_is_json_without_numbers_that_json_lacks():
    cases = (Comparison("random", 2, True, math.inf, math.inf, "p"), Comparison("far outside", 1, True, 1, 1, "p"))
    evidence = json.loads(Verification(cases, Accuracy(3, 1.0, 1.0, 0.01), 0, "runtime 1").to_json())
    assert evidence["runtime"] == "runtime 1"
    assert "calibration_samples" not in evidence
    assert (evidence["batches"], evidence["limit"], evidence["worst_difference"]) == ([1, 2], 1, None)
    assert set(evidence["inputs"]) == {"random", "far outside"}
    assert evidence["accuracy"] == {"file": 1.0, "max_drop": 0.01, "model": 1.0, "samples": 3}
    assert set(evidence["versions"]) == {"onnx", "torch"}


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch, exported_tutorial):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"pip install 'conveyor-exporter\[cpu\]'.*\[gpu\]"):
        verify(to_bytes(exported_tutorial[1]), lambda x: x, (2, 2, 1))
