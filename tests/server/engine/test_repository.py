import logging
from pathlib import Path

import pytest

from conveyor_server.core.batch_queue import QueuePolicy
from conveyor_server.core.errors import InvalidRequest, ModelNotFound, ModelNotReady, StartError
from conveyor_server.engine.batcher import Batcher
from conveyor_server.engine.onnx_model import RuntimeOptions
from conveyor_server.engine.repository import ModelStatus, Repository
from support.onnx_models import classifier, save
from support.puppets import Runs


def repository(root: Path) -> Repository:
    return Repository(root, RuntimeOptions(), lambda model: Batcher(model, QueuePolicy(64, 10**6), Runs()))


@pytest.fixture
async def two(tmp_path):
    """A good model in versions 1, 2 and 10, and a broken one."""
    for version in (1, 2, 10):
        save(classifier(seed=version), tmp_path, "good", version)
    save(classifier(), tmp_path, "broken").write_bytes(b"not a model")
    loaded = repository(tmp_path)
    assert not loaded.loaded
    await loaded.load()
    assert loaded.loaded
    yield loaded
    loaded.close()


async def test_the_latest_version_is_served(two):
    assert two.get("good").spec.version == 10
    assert two.get("good", "10") is two.get("good")


async def test_a_broken_model_is_unready_with_its_reason_and_the_others_serve(two, caplog):
    with pytest.raises(
        ModelNotReady, match=r"model 'broken': version 1 is not at ready state: model.onnx is not an ONNX"
    ):
        two.get("broken")
    assert {state.name: state.status for state in two.states} == {
        "broken": ModelStatus.UNAVAILABLE,
        "good": ModelStatus.READY,
    }


async def test_unknown_names_and_versions(two):
    with pytest.raises(ModelNotFound, match="Request for unknown model: 'nope' is not found"):
        two.get("nope")
    with pytest.raises(ModelNotFound, match="Request for unknown model: 'good' version 99 is not found; version 10 is"):
        two.get("good", "99")


@pytest.mark.parametrize("version", ["x", "-1", "1.0", " 10", "\u0661\u0660", "9" * 5000])
async def test_a_version_that_is_no_number(two, version):
    with pytest.raises(InvalidRequest, match="failed to get model version from specified version string"):
        two.get("good", version)


async def test_a_model_that_is_still_loading_says_so(tmp_path):
    save(classifier(), tmp_path, "m")
    with pytest.raises(ModelNotReady, match="still loading"):
        repository(tmp_path).get("m")


def test_a_missing_or_empty_repository_says_how_to_make_one(tmp_path):
    with pytest.raises(
        StartError, match=r"'.*nowhere' is not a folder that exists. Make one with: conveyor-export demo"
    ):
        repository(tmp_path / "nowhere")
    with pytest.raises(StartError, match="has no model"):
        repository(tmp_path)
    (tmp_path / "notes" / "old").mkdir(parents=True)
    with pytest.raises(StartError, match="has no model"):
        repository(tmp_path)


async def test_what_is_no_version_folder_is_no_version(tmp_path, caplog):
    save(classifier(), tmp_path, "m", 1)
    for name in (".3.tmp", "0", "007", "x2"):
        (tmp_path / "m" / name).mkdir()
    (tmp_path / "m" / "9").write_text("a file")
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / "README.txt").write_text("hello")
    loaded = repository(tmp_path)
    assert [(state.name, state.version) for state in loaded.states] == [("m", 1)]


async def test_a_version_folder_without_a_file_is_unready(tmp_path):
    (tmp_path / "m" / "3").mkdir(parents=True)
    loaded = repository(tmp_path)
    await loaded.load()
    with pytest.raises(ModelNotReady, match=r"version 3 .*model.onnx cannot be read: No such file"):
        loaded.get("m")


async def test_a_config_that_is_not_read_is_no_secret(tmp_path, caplog):
    save(classifier(), tmp_path, "m")
    (tmp_path / "m" / "config.pbtxt").write_text('name: "m"')
    with caplog.at_level(logging.WARNING):
        repository(tmp_path)
    assert "config.pbtxt is not read" in caplog.text
