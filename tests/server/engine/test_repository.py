import asyncio
import shutil

import numpy as np
import pytest

from conveyor_server.core.batch_queue import QueuePolicy
from conveyor_server.core.errors import Draining, InvalidRequest, ModelNotFound, ModelNotReady, StartError
from conveyor_server.engine.model_config import parse_config
from conveyor_server.engine.model_versions import ModelStatus
from conveyor_server.engine.repository import Repository
from conveyor_server.engine.runtime_options import RuntimeOptions
from conveyor_server.engine.served_model import ModelLoader
from conveyor_server.engine.serving import ServingDefaults
from support.onnx_models import classifier, save
from support.puppets import Runs, Slot


@pytest.fixture
async def repository(tmp_path):
    defaults = ServingDefaults(RuntimeOptions(), QueuePolicy(64, 10**6))
    made = Repository(tmp_path, ModelLoader(defaults, lambda name: Runs()))
    yield made
    await made.drain()
    made.close()


@pytest.fixture
async def two(repository, tmp_path):
    """A good model in versions 1, 2 and 10, and a broken one."""
    for version in (1, 2, 10):
        save(classifier(seed=version), tmp_path, "good", version)
    save(classifier(), tmp_path, "broken").write_bytes(b"not a model")
    assert not repository.loaded
    await repository.load()
    assert repository.loaded
    return repository


def configure(root, name, text):
    (root / name / "config.pbtxt").write_text(text)


def versions(repository, name="m"):
    return {s.version: s.status.value for s in repository.states if s.name == name}


def published(root, version, seed=None):
    """A version that appears whole, as the exporter publishes it."""
    hidden = root.parent / f"{root.name}.new"
    save(classifier(seed=version if seed is None else seed), hidden, "m", version)
    (root / "m").mkdir(exist_ok=True)
    shutil.rmtree(root / "m" / str(version), ignore_errors=True)
    (hidden / "m" / str(version)).rename(root / "m" / str(version))


async def test_the_latest_version_is_served(two):
    assert two.get("good").spec.version == 10
    assert two.get("good", "10") is two.get("good")
    assert versions(two, "good") == {10: "READY"}


async def test_a_broken_model_is_unready_with_its_reason_and_the_others_serve(two):
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
    with pytest.raises(ModelNotFound, match="unknown model: 'good' version 99 is not found; versions: 10"):
        two.get("good", "99")


@pytest.mark.parametrize("version", ["x", "-1", "1.0", " 10", "0", "\u0661\u0660", "9" * 5000])
async def test_a_version_that_is_no_number(two, version):
    with pytest.raises(InvalidRequest, match="failed to get model version from specified version string"):
        two.get("good", version)


async def test_a_missing_or_empty_repository_says_how_to_make_one(repository, tmp_path):
    with pytest.raises(StartError, match=r"'.*nowhere' is not a folder that exists. Make one with: conveyor-export"):
        Repository(tmp_path / "nowhere", None)
    with pytest.raises(StartError, match="has no model"):
        repository.require_models()
    (tmp_path / "notes" / "old").mkdir(parents=True)
    with pytest.raises(StartError, match="has no model"):
        repository.require_models()


async def test_what_is_no_version_folder_is_no_version(repository, tmp_path):
    save(classifier(), tmp_path, "m", 1)
    for name in (".3.tmp", "0", "007", "x2"):
        (tmp_path / "m" / name).mkdir()
    (tmp_path / "m" / "9").write_text("a file")
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / "README.txt").write_text("hello")
    await repository.load()
    assert [(state.name, state.version) for state in repository.states] == [("m", 1)]


async def test_a_version_folder_without_a_file_is_unready(repository, tmp_path):
    (tmp_path / "m" / "3").mkdir(parents=True)
    await repository.load()
    with pytest.raises(ModelNotReady, match=r"version 3 .*model.onnx cannot be read: No such file"):
        repository.get("m")


@pytest.mark.parametrize(
    ("policy", "ready"),
    [
        ("", [4]),
        ("version_policy { latest { num_versions: 2 } }", [2, 4]),
        ("version_policy { all {} }", [1, 2, 4]),
        ("version_policy { specific { versions: [1, 2, 7] } }", [1, 2]),
    ],
)
async def test_version_policies(repository, tmp_path, policy, ready):
    for version in (1, 2, 4):
        published(tmp_path, version)
    configure(tmp_path, "m", policy)
    await repository.load()
    assert versions(repository) == dict.fromkeys(ready, "READY")
    assert repository.get("m").spec.version == ready[-1]
    assert repository.get("m", str(ready[0])).spec.version == ready[0]


async def test_under_latest_an_older_version_stands_in_for_a_broken_one(repository, tmp_path):
    published(tmp_path, 1)
    published(tmp_path, 2)
    (tmp_path / "m" / "2" / "model.onnx").write_bytes(b"no")
    await repository.load()
    assert versions(repository) == {1: "READY", 2: "UNAVAILABLE"}
    assert repository.get("m").spec.version == 1
    with pytest.raises(ModelNotReady, match="version 2 is not at ready state"):
        repository.get("m", "2")


async def test_a_poll_swaps_in_a_new_version_and_answers_what_the_old_one_has_accepted(repository, tmp_path):
    published(tmp_path, 1)
    await repository.load()
    old = repository.get("m")
    slot = Slot()
    old.batcher.submit((np.zeros((3, 8, 8, 1), np.float32),), 3, float("inf"), slot)
    published(tmp_path, 2)
    rung = asyncio.create_task(repository.changes.wait())
    await repository.poll()
    await rung
    assert versions(repository) == {2: "READY"}
    assert repository.get("m").spec.version == 2
    (outputs,) = await slot.wait()
    assert outputs.shape == (3, 4)
    with pytest.raises(Draining):
        old.batcher.submit((np.zeros((1, 8, 8, 1), np.float32),), 1, float("inf"), Slot())


async def test_a_broken_new_version_does_not_take_down_the_old_one_and_is_said_once(repository, tmp_path, caplog):
    published(tmp_path, 1)
    await repository.load()
    old = repository.get("m")
    published(tmp_path, 2)
    (tmp_path / "m" / "2" / "model.onnx").write_bytes(b"no")
    for _ in range(3):
        await repository.poll()
    assert repository.get("m") is old
    assert versions(repository) == {1: "READY", 2: "UNAVAILABLE"}
    assert caplog.text.count("version 2 is not served") == 1
    published(tmp_path, 2)
    await repository.poll()
    assert versions(repository) == {2: "READY"}


async def test_a_file_replaced_in_place_is_loaded_anew_and_a_broken_replacement_is_not(repository, tmp_path):
    published(tmp_path, 1, seed=1)
    await repository.load()
    first = repository.get("m")
    published(tmp_path, 1, seed=2)
    await repository.poll()
    second = repository.get("m")
    assert second.model.sha256 != first.model.sha256
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"no")
    await repository.poll()
    assert repository.get("m") is second
    await repository.poll()
    assert repository.get("m") is second


async def test_nothing_is_loaded_again_when_nothing_changed(repository, tmp_path):
    published(tmp_path, 1)
    await repository.load()
    before = repository.get("m")
    await repository.poll()
    assert repository.get("m") is before


async def test_a_changed_configuration_is_taken_and_a_broken_one_changes_nothing(repository, tmp_path, caplog):
    published(tmp_path, 1)
    await repository.load()
    assert repository.get("m").spec.max_batch_size == 1024
    configure(tmp_path, "m", "max_batch_size: 5")
    await repository.poll()
    assert repository.get("m").spec.max_batch_size == 5
    configure(tmp_path, "m", "max_batch_size: five")
    for _ in range(3):
        await repository.poll()
    assert repository.get("m").spec.max_batch_size == 5
    assert caplog.text.count("config.pbtxt is not a model configuration") == 1


async def test_a_model_with_a_configuration_that_asks_too_much_is_unready(repository, tmp_path):
    published(tmp_path, 1)
    configure(tmp_path, "m", "ensemble_scheduling { step { model_name: 'x' } }")
    await repository.load()
    with pytest.raises(ModelNotReady, match=r"config.pbtxt: ensemble_scheduling: models are not chained"):
        repository.get("m")


async def test_what_leaves_the_folder_leaves_the_service(repository, tmp_path, caplog):
    published(tmp_path, 1)
    published(tmp_path, 2)
    configure(tmp_path, "m", "version_policy { all {} }")
    await repository.load()
    shutil.rmtree(tmp_path / "m" / "2")
    await repository.poll()
    assert versions(repository) == {1: "READY"}
    shutil.rmtree(tmp_path / "m")
    await repository.poll()
    assert repository.states == []
    with pytest.raises(ModelNotFound):
        repository.get("m")


async def test_a_folder_that_cannot_be_read_for_a_while_changes_nothing(repository, tmp_path, caplog):
    published(tmp_path, 1)
    await repository.load()
    tmp_path.rename(tmp_path.with_name("moved"))
    await repository.poll()
    assert versions(repository) == {1: "READY"}
    assert "what is served stays" in caplog.text
    tmp_path.with_name("moved").rename(tmp_path)


async def test_only_named_models_are_loaded(repository, tmp_path):
    for name in ("a", "b"):
        save(classifier(), tmp_path, name)
    with pytest.raises(StartError, match=r"No such model in '.*': c. There are: \['a', 'b'\]"):
        await repository.load(["a", "c"])
    await repository.load(["a"])
    assert [state.name for state in repository.states] == ["a"]
    await repository.load_model("b")
    assert repository.get("b").spec.version == 1


async def test_loading_and_unloading_by_request(repository, tmp_path):
    published(tmp_path, 1)
    await repository.load([])
    with pytest.raises(ModelNotFound):
        repository.get("m")
    for name in ("nope", "../m", ""):
        with pytest.raises(ModelNotFound, match="failed to load"):
            await repository.load_model(name)
    await repository.load_model("m")
    first = repository.get("m")
    await repository.load_model("m")
    assert repository.get("m") is first, "nothing changed, so nothing was loaded again"
    await repository.unload_model("m")
    assert versions(repository) == {1: "UNAVAILABLE"}
    with pytest.raises(ModelNotReady, match="unloaded"):
        repository.get("m")
    with pytest.raises(ModelNotFound, match="failed to unload 'nope'"):
        await repository.unload_model("nope")
    await repository.load_model("m")
    assert repository.get("m") is not first


async def test_a_configuration_can_come_with_the_request(repository, tmp_path):
    published(tmp_path, 1)
    await repository.load([])
    await repository.load_model("m", parse_config("max_batch_size: 3", "config"))
    assert repository.get("m").config.max_batch_size == 3
    with pytest.raises(InvalidRequest, match="failed to load 'm': sequence_batching: sequences"):
        await repository.load_model("m", parse_config("sequence_batching {}", "config"))
    assert repository.get("m").config.max_batch_size == 3
    await repository.load_model("m", parse_config('{"max_batch_size": 4}', "config"))
    assert repository.get("m").config.max_batch_size == 4
    await repository.load_model("m")
    assert repository.get("m").config.max_batch_size == 1024


async def test_a_load_that_fails_says_why_and_leaves_what_was_served(repository, tmp_path):
    published(tmp_path, 1)
    await repository.load()
    published(tmp_path, 2)
    (tmp_path / "m" / "2" / "model.onnx").write_bytes(b"no")
    with pytest.raises(InvalidRequest, match=r"failed to load 'm': model.onnx is not an ONNX model"):
        await repository.load_model("m")
    assert repository.get("m").spec.version == 1


async def test_while_a_model_loads_it_says_so(repository, tmp_path):
    published(tmp_path, 1)
    begun = asyncio.create_task(repository.changes.wait())
    loading = asyncio.create_task(repository.load())
    await begun
    with pytest.raises(ModelNotReady, match="still loading"):
        repository.get("m")
    await loading
