import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch

from conveyor_exporter.__main__ import run
from conveyor_exporter.errors import InvalidArgument, ModelFileRefused
from conveyor_exporter.sources.torch_module import fit_ends, load_weights, make_module, read_weights

NETWORK = """
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Linear(4 * 3 * 3, 3)

    def forward(self, images):
        return self.classifier(self.features(images).flatten(1))

class Broken(Network):
    def __init__(self):
        raise RuntimeError("no disk\\nand more")

def other():
    return "a module"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with a network and its weights, and a module name that no other test has."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(NETWORK)
    torch.manual_seed(1)
    made = make_module("network.py:Network")
    made.features[1].running_mean += 0.3
    safetensors.torch.save_file(made.state_dict(), "w.safetensors")
    torch.save(made.state_dict(), "w.pt")
    torch.save({"state_dict": made.state_dict(), "epoch": 3}, "checkpoint.pt")
    torch.save(made, "whole.pt")
    return made


ARGUMENTS = ("--weights", "w.safetensors", "--input-shape", "8,8,1", "--name", "net", "--labels", "a,b,c")
CHANNELS_FIRST = ("--channels-first", "--activation", "softmax")


def test_the_command_exports_a_channels_first_module_with_logits(folder, capsys):
    assert run(["torch", "network.py:Network", *ARGUMENTS, *CHANNELS_FIRST, "--logits", "--input-dtype", "uint8"]) == 0
    assert "network.py:Network: Network, 159 parameters from w.safetensors" in capsys.readouterr().out
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    with torch.no_grad():
        logits = folder.eval()(torch.tensor(images / 255, dtype=torch.float32).permute(0, 3, 1, 2))
    session = onnxruntime.InferenceSession("models/net/1/model.onnx", providers=["CPUExecutionProvider"])
    got = session.run(["logits", "probabilities"], {"image": images})
    np.testing.assert_allclose(got[0], logits, atol=1e-5)
    np.testing.assert_allclose(got[1], torch.softmax(logits, 1), atol=1e-6)
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["conveyor.source.format"] == "torch"
    assert properties["conveyor.source.sha256"] == read_weights(Path("w.safetensors")).sha256
    assert json.loads(properties["conveyor.preprocessing"])["dtype"] == "uint8"
    names = [node.name for node in onnx.load("models/net/1/model.onnx").graph.node]
    assert not any("module" in name for name in names)
    assert "classifier" in names


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "checkpoint.pt"])
def test_weights_are_read_from(folder, name):
    tensors = read_weights(Path(name)).tensors
    assert tensors.keys() == folder.state_dict().keys()
    assert all(torch.equal(tensors[key], value) for key, value in folder.state_dict().items())


def hostile(path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(path.parent / "ran"), "w"))

    path.write_bytes(pickle.dumps({"w": Bomb()}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: shutil.copy("whole.pt", path), "something else than tensors"),
        (hostile, "something else than tensors"),
        (lambda path: path.write_bytes(b""), "something else than tensors, or is broken"),
        (lambda path: path.write_bytes(b"\xff" * 8 + b"{"), "no sound safetensors file"),
        (lambda path: path.write_bytes(Path("w.safetensors").read_bytes()[:-4]), "no sound safetensors file"),
        (lambda path: torch.save([torch.zeros(1)], path), "must hold tensors by name"),
        (lambda path: None, "cannot read"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_and_not_run(folder, tmp_path, make, message):
    make(tmp_path / "bad")
    with pytest.raises(ModelFileRefused, match=message):
        read_weights(tmp_path / "bad")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_named(folder, tmp_path):
    tensors = dict(folder.state_dict())
    tensors["classifer.bias"] = tensors.pop("classifier.bias")
    tensors["features.0.bias"] = torch.zeros(5)
    safetensors.torch.save_file(tensors, "other.safetensors")
    with pytest.raises(ModelFileRefused) as refused:
        load_weights(folder, read_weights(tmp_path / "other.safetensors"))
    assert (
        "missing: classifier.bias; unexpected: classifer.bias; of another shape: features.0.bias [5] instead of [4]"
        in (str(refused.value))
    )


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("network", "written package.module:name"),
        ("nowhere.at_all:make", "cannot import nowhere.at_all: ModuleNotFoundError"),
        ("nowhere.py:make", r"cannot import nowhere\.py: FileNotFoundError"),
        ("network.py:Netwrk", "Did you mean 'Network'"),
        ("network.py:Broken", "failed: RuntimeError: no disk$"),
        ("network.py:other", "must return a torch.nn.Module, got str"),
    ],
)
def test_a_factory_that_cannot_be_is_refused(folder, factory, message):
    with pytest.raises(InvalidArgument, match=message):
        make_module(factory)


def test_the_factory_is_found_in_the_current_folder_as_a_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_network_of_the_user.py").write_text(NETWORK)
    assert type(make_module("a_network_of_the_user:Network")).__name__ == "Network"


def test_a_sigmoid_goes_behind_one_logit():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
    fit_ends(module, channels_first=False, activation="sigmoid")
    assert 0 < module(torch.full((1, 2, 2, 1), 100.0)).item() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--channels-first"),
        (("--channels-first",), "--activation"),
        ((*CHANNELS_FIRST, "--int8"), "int8 needs labelled data"),
        ((*CHANNELS_FIRST, "--opset", "17"), "between 18 and 23"),
        ((*CHANNELS_FIRST, "--opset", "21", "--ir-version", "9"), "between 10, which opset 21 needs, and 13"),
        ((*CHANNELS_FIRST, "--labels", '["a", 1]'), "cannot read the labels"),
        ((*CHANNELS_FIRST, "--input-shape", "8,-8,1"), "a shape is written 28,28,1"),
    ],
)
def test_what_cannot_be_exported_is_one_clear_line(folder, capsys, arguments, message):
    given = {"--weights": "w.safetensors", "--input-shape": "8,8,1", "--name": "net"}
    rest = [word for flag, value in given.items() if flag not in arguments for word in (flag, value)]
    assert run(["torch", "network.py:Network", *rest, *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("models").exists()


def test_float16_and_int8_exclude_each_other(folder, capsys):
    assert run(["torch", "network.py:Network", *ARGUMENTS, "--float16", "--int8"]) == 2
