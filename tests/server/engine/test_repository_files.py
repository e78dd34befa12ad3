"""Whoever writes to a repository decides what is served, not what else the server reads."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from conveyor_server.core.batch_queue import QueuePolicy
from conveyor_server.core.errors import ModelRejected
from conveyor_server.engine.repository import Repository
from conveyor_server.engine.repository_files import RepositoryFiles, is_file_name
from conveyor_server.engine.runtime_options import RuntimeOptions
from conveyor_server.engine.served_model import ModelLoader
from conveyor_server.engine.serving import ServingDefaults
from support.onnx_models import classifier, save
from support.puppets import Runs

LABELLED = "output [{ name: 'probabilities' data_type: TYPE_FP32 dims: [4] label_filename: 'labels.txt' }]"
LABELLED += "input [{ name: 'image' data_type: TYPE_FP32 dims: [8, 8, 1] }] max_batch_size: 8"
OUT = "is, or is behind, a link out of the repository"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def secret(tmp_path):
    """A file beside the repository."""
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    return path


async def load(root):
    """A repository's state by model: the version's number, or why none is served."""
    defaults = ServingDefaults(RuntimeOptions(), QueuePolicy(64, 10**6))
    repository = Repository(root, ModelLoader(defaults, lambda name: Runs()))
    await repository.load()
    states = {state.name: state.version if state.served else state.reason for state in repository.states}
    repository.close()
    return states


def test_a_file_inside_is_read_whole(root):
    (root / "file").write_bytes(b"content")
    assert RepositoryFiles(root).read(root / "file", 7) == b"content"


def test_a_file_that_is_too_large_is_not_read(root):
    (root / "file").write_bytes(b"content!")
    with pytest.raises(ModelRejected, match="file has 8 bytes; the limit is 7"):
        RepositoryFiles(root).read(root / "file", 7)


def test_what_says_that_it_is_small_and_has_no_end_is_not_read():
    """A file of /proc has a size of 0 and content; so a size is only a promise."""
    with pytest.raises(ModelRejected, match="has grown beyond 10 bytes"):
        RepositoryFiles(Path("/proc")).read(Path("/proc/self/status"), 10)


def test_links_inside_are_followed_and_those_that_lead_out_are_not(root, secret):
    (root / "real").mkdir()
    (root / "real" / "file").write_bytes(b"x")
    (root / "relative").symlink_to("real/file")
    (root / "absolute").symlink_to(root / "real" / "file")
    (root / "folder").symlink_to("real")
    (root / "round").symlink_to("../models/real/file")
    files = RepositoryFiles(root)
    for path in ("relative", "absolute", "folder/file", "round"):
        assert files.read(root / path, 10) == b"x"
    (root / "out").symlink_to(secret)
    (root / "up").symlink_to("..")
    (root / "twice").symlink_to("out")
    for path in ("out", "up/secret", "twice"):
        with pytest.raises(ModelRejected, match=OUT) as caught:
            files.read(root / path, 10)
        assert "secret" not in str(caught.value).removeprefix("secret"), "the reason goes to clients"


def test_a_folder_whose_name_only_begins_alike_is_outside(root):
    other = root.with_name("models-of-others")
    other.mkdir()
    (other / "file").write_bytes(b"x")
    (root / "link").symlink_to(other / "file")
    with pytest.raises(ModelRejected, match=OUT):
        RepositoryFiles(root).read(root / "link", 10)


def test_the_repository_itself_may_be_a_link_that_is_swapped(root):
    """As git-sync does it."""
    (root / "file").write_bytes(b"old")
    newer = root.with_name("newer")
    newer.mkdir()
    (newer / "file").write_bytes(b"new")
    link = root.with_name("current")
    link.symlink_to("models")
    files = RepositoryFiles(link)
    assert files.read(link / "file", 10) == b"old"
    link.unlink()
    link.symlink_to("newer")
    assert files.read(link / "file", 10) == b"new"


def test_pipes_devices_and_sockets_are_no_files_and_nobody_waits_for_them(root):
    os.mkfifo(root / "pipe")
    (root / "device").symlink_to("/dev/zero")
    (root / "loop").symlink_to("loop")
    for name in ("pipe", "device"):
        with pytest.raises(ModelRejected, match=f"{name} is a device or a pipe"):
            RepositoryFiles(root).read(root / name, 10)
    with pytest.raises(OSError, match="symbolic links"):
        RepositoryFiles(root).read(root / "loop", 10)
    with pytest.raises(IsADirectoryError):
        RepositoryFiles(root).read(root, 10)


def test_a_link_that_is_swapped_while_it_is_read_gives_nothing_away(root, secret):
    """A writer who changes the link all the time gets the file inside, or a refusal, and never the one outside."""
    (root / "inside").write_text("inside\n")
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            for target in (secret, root / "inside"):
                (root / "draft").symlink_to(target)
                (root / "draft").replace(root / "link")

    (root / "link").symlink_to("inside")
    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = set()
    try:
        for _ in range(2000):
            try:
                seen.add(RepositoryFiles(root).read(root / "link", 100))
            except ModelRejected:
                seen.add(None)
    finally:
        stop.set()
        swapping.join()
    assert b"s3cret\n" not in seen
    assert seen <= {b"inside\n", None}


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "/a", "../a", "a\0b"])
def test_what_is_no_name_of_a_file(text):
    assert not is_file_name(text)


@pytest.mark.parametrize("text", ["a", "a.b", "..a", "a\\b", "é", "x" * 300])
def test_what_can_be_one(text):
    assert is_file_name(text)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("m/1/model.onnx", f"model.onnx {OUT}"),
        ("m/config.pbtxt", f"config.pbtxt: config.pbtxt {OUT}"),
        ("m/labels.txt", OUT),
    ],
)
async def test_no_file_of_a_model_may_be_elsewhere(root, secret, name, reason):
    model = save(classifier(), root, "m")
    (root / "m" / "config.pbtxt").write_text(LABELLED)
    (root / "m" / "labels.txt").write_text("a\nb\nc\nd\n")
    assert await load(root) == {"m": 1}
    elsewhere = shutil.copy(root / name, root.parent / "elsewhere")
    (root / name).unlink()
    (root / name).symlink_to(elsewhere)
    assert reason in (await load(root))["m"]
    assert model.parent.is_dir()


async def test_no_folder_of_a_model_may_be_elsewhere_either(root):
    save(classifier(), root.parent / "elsewhere", "m")
    (root / "whole").symlink_to(root.parent / "elsewhere" / "m")
    (root / "version").mkdir()
    (root / "version" / "1").symlink_to(root.parent / "elsewhere" / "m" / "1")
    states = await load(root)
    assert states.keys() == {"whole", "version"}
    assert all(OUT in reason for reason in states.values())


async def test_a_volume_of_kubernetes_is_served(root):
    """Its files are links through `..data` to a folder with a date, beside them."""
    for part in ("m", "m/1"):
        (root / part).mkdir()
    (root / "m/1/..2026").mkdir()
    (root / "m/1/..data").symlink_to("..2026")
    (root / "m/1/..2026/model.onnx").write_bytes(classifier().SerializeToString())
    (root / "m/1/model.onnx").symlink_to("..data/model.onnx")
    assert await load(root) == {"m": 1}


HOSTILE = {
    "a name with a zero": "default_model_filename: 'a\\000b'",
    "a name that leads up": "default_model_filename: '..'",
    "a long name": f"default_model_filename: '{'x' * 5000}'",
    "a warm-up of any size": "model_warmup { name: 'w' batch_size: 4000000000 inputs { key: 'image' value "
    "{ data_type: TYPE_FP32 dims: [8, 8, 1] random_data: true } } }",
    "a warm-up without end": "model_warmup { name: 'w' batch_size: 1 count: 4000000000 inputs { key: 'image' value "
    "{ data_type: TYPE_FP32 dims: [8, 8, 1] zero_data: true } } }",
    "a warm-up from elsewhere": "model_warmup { name: 'w' batch_size: 1 inputs { key: 'image' value "
    "{ data_type: TYPE_FP32 dims: [8, 8, 1] input_data_file: 'raw' } } }",
    "a label file with a zero": LABELLED.replace("labels.txt", "a\\000b"),
    "a label file that leads up": LABELLED.replace("labels.txt", ".."),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_configuration_is_refused_and_the_others_serve(root, secret, case):
    save(classifier(), root, "good")
    save(classifier(), root, "hostile")
    (root / "hostile" / "warmup").mkdir()
    (root / "hostile" / "warmup" / "raw").symlink_to(secret)
    (root / "hostile" / "config.pbtxt").write_text(HOSTILE[case])
    states = await load(root)
    assert states["good"] == 1
    assert isinstance(states["hostile"], str), "it is not served"
    assert "s3cret" not in states["hostile"]


async def test_labels_of_a_hostile_depth_are_no_labels(root):
    save(classifier(metadata={"conveyor.labels": "[" * 100_000}), root, "deep")
    save(classifier(), root, "good")
    assert (await load(root))["good"] == 1


async def test_what_nobody_thought_of_stops_one_model_only(root, caplog, monkeypatch):
    def fail(*_):
        raise MemoryError("too much")

    save(classifier(), root, "good")
    save(classifier(), root, "other")
    real = ModelLoader.open
    monkeypatch.setattr(ModelLoader, "open", lambda *given: fail() if given[1].name == "other" else real(*given))
    assert await load(root) == {"good": 1, "other": "it could not be loaded; the server's log has the details."}
    assert "This is a bug." in caplog.text


async def test_a_label_file_has_a_limit(root):
    save(classifier(), root, "m")
    (root / "m" / "config.pbtxt").write_text(LABELLED)
    (root / "m" / "labels.txt").write_bytes(b"x\n" * (8 * 2**20 + 1))
    assert "labels.txt has 16777218 bytes; the limit is 16777216" in (await load(root))["m"]
