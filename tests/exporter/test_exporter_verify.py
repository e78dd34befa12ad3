"""The verification must catch what can go wrong between a network and its file: here it is made to go wrong."""

import copy
import math
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from conveyor_exporter.errors import MissingDependency
from conveyor_exporter.onnx_export import to_bytes
from conveyor_exporter.verify import BATCHES, Comparison, Verification, verify


@pytest.fixture
def broken(exported_tutorial):
    network, model = exported_tutorial
    model = copy.deepcopy(model)

    def verified(real_inputs=None):
        return verify(to_bytes(model), network.predict, network.input_shape, real_inputs=real_inputs)

    return model, verified


def change(model, name, function):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(function(numpy_helper.to_array(tensor).copy())), name))


def node(model, name):
    return next(node for node in model.graph.node if node.name == name)


def test_a_sound_file_passes_on_every_case(broken):
    _, verified = broken
    verification = verified(real_inputs=np.random.default_rng(0).uniform(size=(5, 28, 28, 1)))
    assert verification.passed
    assert {(case.inputs, case.batch, case.optimized) for case in verification.comparisons} == {
        (inputs, batch, optimized)
        for inputs in ("random", "zeros", "ones", "real")
        for batch in BATCHES
        for optimized in (False, True)
    }
    assert verification.worst < 1e-6
    assert "32 comparisons" in str(verification)


def one_value(weights):
    weights.flat[weights.size // 2] += 0.01
    return weights


BREAKAGES = {
    "one kernel value": lambda model: change(model, "conv2d.kernel", one_value),
    "one dense value": lambda model: change(model, "dense.kernel", one_value),
    "kernel axes swapped": lambda model: change(model, "conv2d.kernel", lambda w: w.transpose(0, 1, 3, 2)),
    "flatten order not folded": lambda model: change(
        model, "dense.kernel", lambda w: w.reshape(1, 16, 26, 26).transpose(0, 2, 3, 1).reshape(1, -1)
    ),
    "bias of the convolution lost": lambda model: node(model, "conv2d").input.pop(),
    "bias of the dense layer lost": lambda model: node(model, "dense").input.pop(),
    "a weight is nan": lambda model: change(model, "dense.bias", lambda w: w * np.nan),
    "image axes swapped": lambda model: (
        node(model, "conv2d/channels_first").attribute[0].ints.__setitem__(slice(None), [0, 3, 2, 1])
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
    assert "comparisons differ by more than 1e-05" in table
    assert "random" in table


def test_an_error_that_only_real_inputs_show_is_caught(broken):
    model, verified = broken
    bright = np.zeros((1, 28, 28, 1), np.float32)
    bright[0, 14, 14] = 1000  # out of the range of the made-up inputs
    graph = model.graph
    bounds = [numpy_helper.from_array(np.float32(bound), name) for bound, name in ((-9, "low"), (9, "high"))]
    graph.initializer.extend(bounds)
    graph.node.insert(0, onnx.helper.make_node("Clip", ["image", "low", "high"], ["clipped"]))
    node(model, "conv2d/channels_first").input[0] = "clipped"
    assert verified().passed
    assert {case.inputs for case in verified(real_inputs=bright).failed} == {"real"}


def test_real_inputs_of_another_shape_are_refused(broken):
    with pytest.raises(ValueError, match=r"`real_inputs` must be \[samples, \*\(28, 28, 1\)\]"):
        broken[1](real_inputs=np.zeros((5, 784)))


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
    nan = Verification((Comparison("random", 1, True, math.nan),), limit=math.inf)
    assert not nan.passed
    assert nan.worst == math.inf
    assert not Verification((), limit=1.0).passed


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch, exported_tutorial):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"pip install 'conveyor-exporter\[cpu\]'.*\[gpu\]"):
        verify(to_bytes(exported_tutorial[1]), lambda x: x, (2, 2, 1))
