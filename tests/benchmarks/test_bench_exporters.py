"""The benchmark of exporters: networks travel whole, rivals have processes of their own, and verdicts can be bad."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from conveyor_exporter import layers
from conveyor_exporter.models import Sequential
from harness import environments
from harness.exporters import networks, rival_process
from harness.exporters.measuring import AGAIN, OURS, check_answers, verdicts
from harness.exporters.networks import INPUT, NETWORKS, TUTORIAL
from harness.exporters.torch_twin import in_torch
from support.onnx_models import classifier

RIVAL = """
from harness.exporters.rival_main import export_all

def way(network, weights):
    text = repr([network, [[array.tolist() for array in group] for group in weights]])
    return lambda path: path.write_text(text)

export_all(way)
"""


def built(network):
    model = Sequential([layers.Input(shape=INPUT), *(getattr(layers, kind)(**options) for kind, options in network)])
    generator = np.random.default_rng(0)
    model.set_weights([generator.uniform(0.1, 0.5, weight.shape) for weight in model.get_weights()])
    return model, [layer.get_weights() for layer in model.layers if not isinstance(layer, layers.Input)]


@pytest.fixture
def rival(tmp_path, monkeypatch):
    """What makes a rival of a program, in this environment."""
    monkeypatch.setattr(rival_process, "RIVALS", tmp_path / "rivals")
    monkeypatch.setattr(rival_process, "environment", lambda name: Path(sys.prefix))

    def make(program):
        place = tmp_path / "rivals" / "rival" / "export.py"
        place.parent.mkdir(parents=True)
        place.write_text(program)
        return "rival"

    return make


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_twin_in_torch_has_our_answers(network):
    model, weights = built(network)
    images = np.random.default_rng(1).random((3, *INPUT), np.float32)
    twin = in_torch(network, weights)(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(twin, model.predict(images), atol=1e-5)


def test_a_network_travels_whole(tmp_path):
    for network in NETWORKS.values():
        weights = built(network)[1]
        networks.save(tmp_path / "network.npz", network, weights)
        loaded, arrays = networks.load(tmp_path / "network.npz")
        assert loaded == network
        assert [len(group) for group in arrays] == [len(group) for group in weights]
        for group, others in zip(weights, arrays, strict=True):
            for array, other in zip(group, others, strict=True):
                np.testing.assert_array_equal(array, other)


def test_a_rival_gets_networks_and_gives_files_and_seconds(rival, tmp_path):
    weights = built(TUTORIAL)[1]
    files = rival_process.export_with(rival(RIVAL), {"tutorial": (TUTORIAL, weights)}, tmp_path)
    path, seconds = files["tutorial"]
    assert path.read_text() == repr([TUTORIAL, [[array.tolist() for array in group] for group in weights]])
    assert seconds > 0


def test_a_rival_that_fails_ends_the_benchmark_with_what_it_said(rival, tmp_path):
    with pytest.raises(SystemExit, match=r"rival did not export:(?s:.*)out of onions"):
        rival_process.export_with(rival("raise SystemExit('out of onions')"), {}, tmp_path)


def test_an_environment_is_made_while_its_pins_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "RIVALS", tmp_path / "rivals")
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "environments")
    requirements = tmp_path / "rivals" / "empty" / "requirements.txt"
    requirements.parent.mkdir(parents=True)
    requirements.write_text("# nothing\n")
    assert not environments.is_made("empty")
    assert (environments.environment("empty") / "bin" / "pip").exists()
    assert environments.is_made("empty")
    requirements.write_text("# something else\n")
    assert not environments.is_made("empty")


def session(seed):
    return onnxruntime.InferenceSession(
        classifier(height=28, width=28, seed=seed).SerializeToString(), providers=["CPUExecutionProvider"]
    )


def test_other_answers_void_a_comparison():
    images = np.random.default_rng(0).random((2, *INPUT), np.float32)
    check_answers({OURS: session(0), "other": session(0)}, images)
    with pytest.raises(SystemExit, match="other answers otherwise than ours"):
        check_answers({OURS: session(0), "other": session(1)}, images)


def test_a_verdict_knows_better_level_and_worse():
    rows = {
        OURS: {"bytes": 101.0, "nodes": 5.0, "µs at 1": 1.03, "µs at 32": 0.5},
        "slow": {"bytes": 100.0, "nodes": 5.0, "µs at 1": 1.0, "µs at 32": 2.0},
        "slower": {"bytes": 100.0, "nodes": 6.0, "µs at 1": 3.0, "µs at 32": 1.0},
        AGAIN: {"bytes": 101.0, "nodes": 5.0, "µs at 1": 1.0, "µs at 32": 0.5},
    }
    assert verdicts(rows) == {
        "bytes": "1.01x WORSE",
        "nodes": "level",  # of what does not vary, only the same is level
        "µs at 1": "level",
        "µs at 32": "2.00x better",
    }
