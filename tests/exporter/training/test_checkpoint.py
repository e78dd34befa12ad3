import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from conveyor_exporter.errors import CheckpointFailed, CheckpointMismatch
from conveyor_exporter.layers import Dense
from conveyor_exporter.models import Sequential
from conveyor_exporter.training.checkpoint import Checkpoint, Snapshot
from conveyor_exporter.training.early_stopping import EarlyStopping, Watch
from conveyor_exporter.training.randomness import random_states, restore_random_states

NAMES = st.text("abc._0", min_size=1, max_size=6)
TENSORS = st.dictionaries(NAMES, st.integers(0, 3).map(lambda n: torch.arange(6.0)[:n] / 7), max_size=3)
FLOATS = st.floats(width=64)
SNAPSHOTS = st.builds(
    Snapshot,
    weights=TENSORS,
    optimizer=st.builds(
        lambda states, groups: {"state": dict(enumerate(states)), "param_groups": groups},
        st.lists(st.dictionaries(NAMES, st.just(torch.tensor(3.0)), min_size=1, max_size=2), max_size=3),
        st.lists(st.dictionaries(NAMES, FLOATS | st.booleans() | st.none()), max_size=2),
    ),
    random=st.dictionaries(NAMES, st.just(torch.arange(5, dtype=torch.uint8)), max_size=2),
    history=st.dictionaries(NAMES, st.lists(FLOATS, max_size=3), max_size=3),
    epochs=st.integers(0, 99),
    watch=st.builds(Watch, st.none() | FLOATS, st.none() | st.integers(0, 9), st.integers(0, 9), TENSORS),
    finished=st.booleans(),
)


def plain(value):
    """Return a snapshot as text that is equal when every bit is: nan is nan, 0.0 is not -0.0."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {value.tolist()!r}"
    if isinstance(value, dict):
        return repr({name: plain(value[name]) for name in sorted(value)})
    return repr([plain(item) for item in value]) if isinstance(value, list) else repr(value)


@settings(deadline=None, max_examples=60)
@given(SNAPSHOTS)
def test_what_was_saved_comes_back(snapshot):
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "run.safetensors", {"a": "1"})
        checkpoint.save(snapshot)
        loaded = checkpoint.load()
        assert [path.name for path in Path(folder).iterdir()] == ["run.safetensors"]
    for name, value in vars(snapshot).items():
        got = getattr(loaded, name)
        assert plain(vars(got)) == plain(vars(value)) if name == "watch" else plain(got) == plain(value)


def empty(**values):
    return Snapshot(
        **({"weights": {}, "optimizer": {"state": {}, "param_groups": []}} | values), random={}, history={}, epochs=0
    )


def test_no_file_is_a_fresh_start(tmp_path):
    assert Checkpoint(tmp_path / "run.safetensors").load() is None


def test_another_training_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "run.safetensors"
    Checkpoint(path, {"epochs": "3", "seed": "0", "old": "x"}).save(empty())
    with pytest.raises(CheckpointMismatch) as caught:
        Checkpoint(path, {"epochs": "4", "seed": "0", "new": "y"}).load()
    assert "  epochs: 3 in the checkpoint, 4 now\n" in str(caught.value)
    assert "  new: nothing in the checkpoint, y now\n  old: x in the checkpoint, nothing now\n" in str(caught.value)
    assert "seed" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", b"\xff" * 64])
def test_a_broken_file_is_refused(tmp_path, content):
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointFailed, match="cannot read the checkpoint"):
        Checkpoint(path).load()


def test_a_cut_file_is_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.safetensors")
    checkpoint.save(empty(weights={"w": torch.zeros(100)}))
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-1])
    with pytest.raises(CheckpointFailed):
        checkpoint.load()


def test_weights_of_another_kind_are_refused(tmp_path):
    save_file({"w": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointFailed, match="is no checkpoint of a training"):
        Checkpoint(tmp_path / "weights.safetensors").load()


def test_a_folder_that_is_not_there_is_one_error_and_a_failed_write_keeps_the_old_file(tmp_path):
    with pytest.raises(CheckpointFailed, match="cannot write the checkpoint"):
        Checkpoint(tmp_path / "nowhere" / "run.safetensors").save(empty())
    checkpoint = Checkpoint(tmp_path / "run.safetensors")
    checkpoint.save(empty())
    before = checkpoint.path.read_bytes()
    with pytest.raises(AttributeError):
        checkpoint.save(empty(weights={"w": "no tensor"}))
    assert checkpoint.path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def training(epochs, checkpoint=None, optimizer="adam", **arguments):
    torch.manual_seed(1)
    model = Sequential([Dense(4, activation="relu", input_shape=(3,)), Dense(1, activation="sigmoid")])
    model.compile(optimizer=optimizer, loss="binary_crossentropy", metrics=["accuracy"])
    x = np.random.default_rng(0).normal(size=(60, 3))
    y = (x.sum(1) + np.random.default_rng(1).normal(size=60) > 0).astype(int)
    options = {"epochs": epochs, "batch_size": 8, "validation_split": 0.4, "verbose": 0} | arguments
    return model, lambda: model.fit(x, y, checkpoint=checkpoint, **options)


class Stopped(Exception):
    pass


class StopsAfter(Checkpoint):
    """A checkpoint after which the process is as good as killed."""

    def save(self, snapshot):
        super().save(snapshot)
        if snapshot.epochs == 2:
            raise Stopped


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("rule", [None, EarlyStopping(patience=2), EarlyStopping("val_accuracy", patience=9)])
def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path, optimizer, rule):
    path = tmp_path / "run.safetensors"
    whole, fit_whole = training(12, optimizer=optimizer, early_stopping=rule)
    expected = fit_whole()
    _, fit = training(12, StopsAfter(path), optimizer, early_stopping=rule)
    with pytest.raises(Stopped):
        fit()
    model, fit = training(12, Checkpoint(path), optimizer, early_stopping=rule)
    torch.manual_seed(99)  # what was drawn in between must not matter
    assert fit() == expected
    for got, wanted in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_finished_training_is_not_trained_again(tmp_path, capsys):
    checkpoint = Checkpoint(tmp_path / "run.safetensors")
    model, fit = training(3, checkpoint)
    first = fit()
    content = checkpoint.path.read_bytes()
    again, fit = training(3, checkpoint, verbose=2)
    assert fit() == first
    assert capsys.readouterr().out == "3 of 3 epochs are done, says the checkpoint\n"
    assert checkpoint.path.read_bytes() == content
    np.testing.assert_array_equal(model.get_weights()[0], again.get_weights()[0])


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.safetensors")
    training(1, checkpoint)[1]()
    model = Sequential([Dense(1, input_shape=(3,))])
    model.compile(loss="mse")
    with pytest.raises(CheckpointFailed, match="does not fit this network"):
        model.fit(np.zeros((4, 3)), np.zeros(4), checkpoint=checkpoint, verbose=0)


def test_generators_inside_layers_are_part_of_the_state():
    layer = Dense(1)
    layer.generator = torch.Generator().manual_seed(5)
    model = Sequential([layer])
    states = random_states(model)
    drawn = torch.rand(3, generator=layer.generator), torch.rand(3)
    restore_random_states(model, states)
    assert torch.equal(drawn[0], torch.rand(3, generator=layer.generator))
    assert torch.equal(drawn[1], torch.rand(3))
