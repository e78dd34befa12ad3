import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor_exporter import publish as publishing
from conveyor_exporter.errors import PublishFailed
from conveyor_exporter.publish import latest, publish


def test_versions_count_up_and_say_what_they_are(tmp_path):
    first, second = (publish(content, tmp_path / "models", "digits") for content in (b"one", b"two!"))
    assert (first.version, second.version) == (1, 2)
    assert second.path == tmp_path / "models" / "digits" / "2" / "model.onnx"
    assert (first.path.read_bytes(), second.path.read_bytes()) == (b"one", b"two!")
    assert (second.name, second.size, second.sha256) == ("digits", 4, hashlib.sha256(b"two!").hexdigest())
    assert latest(tmp_path / "models", "digits") == second
    assert sorted(os.listdir(tmp_path / "models" / "digits")) == ["1", "2"]


def test_other_readers_may_read_it(tmp_path):
    path = publish(b"", tmp_path, "digits").path
    plain = tmp_path / "plain"
    plain.mkdir()
    assert path.parent.stat().st_mode == plain.stat().st_mode


def test_what_is_no_version_does_not_count(tmp_path):
    model = tmp_path / "digits"
    for name in ("7", "007", "-9", "x", ".publishing-1"):
        (model / name).mkdir(parents=True)
    (model / "config.pbtxt").touch()
    assert latest(tmp_path, "digits") is None
    assert publish(b"", tmp_path, "digits").version == 8


def test_nothing_there_is_no_version(tmp_path):
    assert latest(tmp_path / "nowhere", "digits") is None


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "é", "a\n", "a\\b"])
def test_names_that_cannot_be_folders_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="does not start with"):
        publish(b"", tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=8))
def test_a_name_that_passes_is_one_folder(name):
    try:
        publishing.check_model_name(name)
    except ValueError:
        return
    assert Path(name).name == name
    assert not name.startswith(".")


def test_publishers_at_the_same_time_get_different_versions(tmp_path):
    barrier, published = threading.Barrier(8), []

    def publish_three(number):
        barrier.wait()
        published.extend(publish(b"%d" % number, tmp_path, "digits") for _ in range(3))

    threads = [threading.Thread(target=publish_three, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.version for each in published) == list(range(1, 25))
    for each in published:
        assert hashlib.sha256(each.path.read_bytes()).hexdigest() == each.sha256
    assert sorted(map(int, os.listdir(tmp_path / "digits"))) == list(range(1, 25))


def test_processes_at_the_same_time_get_different_versions(tmp_path):
    program = (
        "import pathlib, sys; from conveyor_exporter.publish import publish\n"
        "sys.stdin.readline()\n"
        "for _ in range(20): print(publish(b'x', pathlib.Path(sys.argv[1]), 'digits').version)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    versions = [int(line) for process in processes for line in process.communicate()[0].split()]
    assert sorted(versions) == list(range(1, 41))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_on_the_way_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(PublishFailed if isinstance(error, OSError) else KeyboardInterrupt):
        publish(b"content", tmp_path, "digits")
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "models").touch()
    with pytest.raises(PublishFailed, match="cannot write to"):
        publish(b"", tmp_path / "models", "digits")


def test_files_beside_the_model_appear_with_it(tmp_path):
    published = publish(b"model", tmp_path, "digits", {"README.md": b"card", "filters.png": b"png"})
    assert {path.name: path.read_bytes() for path in published.path.parent.iterdir()} == {
        "model.onnx": b"model",
        "README.md": b"card",
        "filters.png": b"png",
    }
    assert (published.size, latest(tmp_path, "digits")) == (5, published)


@pytest.mark.parametrize("name", ["model.onnx", "../README.md", ".hidden", "", "a/b"])
def test_a_file_beside_the_model_stays_beside_it(tmp_path, name):
    with pytest.raises(ValueError, match=r"a file beside model\.onnx cannot be called"):
        publish(b"model", tmp_path, "digits", {name: b""})
    assert list(tmp_path.iterdir()) == []
