"""Remote repositories: against fsspec's own file systems, and against a real S3 API in a process of its own."""

import contextlib
import os
import sys
import uuid
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.errors import RepositoryUnreachable, StartError
from conveyor_server.engine import remote_repository
from conveyor_server.engine.local_mirror import LocalMirror, RemoteFile, is_safe, units
from conveyor_server.engine.remote_repository import RemoteRepository, is_remote
from support.object_storage import S3Server, free_port


def tree(folder):
    """The content of every file by path; version folders are links, which `rglob` alone would not enter."""
    found = {}
    for base, _, names in os.walk(folder, followlinks=True):
        for path in (Path(base, name) for name in names):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


class Remote:
    """A remote folder that tests write to, and the repository made of it."""

    def __init__(self, url, cache, **limits):
        self.url = url
        self.repository = RemoteRepository(url, cache, **limits)
        self.storage, self.base = fsspec.core.url_to_fs(url, use_listings_cache=False)

    def put(self, path, content):
        if "file" in self.storage.protocol:
            self.storage.makedirs(os.path.dirname(f"{self.base}/{path}"), exist_ok=True)
        with self.storage.open(f"{self.base}/{path}", "wb") as file:
            file.write(content)

    def remove(self, path):
        self.storage.rm(f"{self.base}/{path}", recursive=True)

    async def sync(self):
        return await self.repository.sync()

    @property
    def tree(self):
        return tree(self.repository.folder)


@pytest.fixture(scope="session")
def s3():
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_environment(s3, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


@pytest.fixture
def bucket(s3_environment):
    name = f"bucket-{uuid.uuid4().hex}"
    with contextlib.closing(s3_environment.client()) as client:
        client.create_bucket(Bucket=name)
        yield client, name


@pytest.fixture(params=["memory", "file", "s3"])
def remote(request, tmp_path):
    if request.param == "memory":
        url = f"memory://{tmp_path.name}"
    elif request.param == "file":
        (tmp_path / "remote").mkdir()
        url = f"file://{tmp_path}/remote"
    else:
        _, name = request.getfixturevalue("bucket")
        url = f"s3://{name}/some/prefix"
    return Remote(url, tmp_path / "cache")


def test_what_is_remote():
    assert is_remote("s3://bucket/models")
    assert is_remote("file:///models")
    assert is_remote("abfs+x://container")
    assert not any(map(is_remote, ["models", "/models", "C:\\models", "./s3:/x", "1://x"]))


async def test_the_copy_follows_the_remote_tree(remote, caplog):
    caplog.set_level("INFO")
    remote.put("m/1/model.onnx", b"one")
    remote.put("m/1/labels/names.txt", b"a")
    remote.put("m/config.pbtxt", b"name: 'm'")
    remote.put("other/7/model.onnx", b"seven")
    assert await remote.sync()
    expected = {
        "m/1/model.onnx": b"one",
        "m/1/labels/names.txt": b"a",
        "m/config.pbtxt": b"name: 'm'",
        "other/7/model.onnx": b"seven",
    }
    assert remote.tree == expected
    assert "Fetching m/1 (1 of 3" in caplog.text
    assert not await remote.sync()
    remote.put("m/2/model.onnx", b"two")
    remote.put("m/1/model.onnx", b"ONE")  # the same size
    remote.remove("m/1/labels/names.txt")
    assert await remote.sync()
    del expected["m/1/labels/names.txt"]
    assert remote.tree == {**expected, "m/1/model.onnx": b"ONE", "m/2/model.onnx": b"two"}
    for path in ("m/1", "m/config.pbtxt", "other"):
        remote.remove(path)
    assert await remote.sync()
    assert remote.tree == {"m/2/model.onnx": b"two"}
    assert not (remote.repository.folder / "other").exists()
    assert len(list(remote.repository.folder.parent.glob("versions/*"))) == 1, "old contents must be freed"


async def test_only_what_changed_is_downloaded(tmp_path, caplog):
    remote = Remote(f"memory://{tmp_path.name}", tmp_path / "cache")
    remote.put("m/1/model.onnx", b"one")
    remote.put("m/2/model.onnx", b"two")
    await remote.sync()
    inodes = {path.parent.name: path.stat().st_ino for path in remote.repository.folder.glob("m/*/model.onnx")}
    remote.put("m/2/extra", b"more")
    caplog.set_level("INFO")
    await remote.sync()
    again = {path.parent.name: path.stat().st_ino for path in remote.repository.folder.glob("m/*/model.onnx")}
    assert again == inodes
    assert "Fetching m/1" not in caplog.text


async def test_a_second_process_takes_over_the_copy(tmp_path, caplog):
    remote = Remote(f"memory://{tmp_path.name}", tmp_path / "cache")
    remote.put("m/1/model.onnx", b"one")
    await remote.sync()
    caplog.set_level("INFO")
    second = Remote(remote.url, tmp_path / "cache")
    assert await second.sync()
    assert not await second.sync()
    assert "Fetching" not in caplog.text


class Breaking:
    """A storage whose downloads go wrong as told."""

    def __init__(self, inner, fault):
        self._inner, self.fault = inner, fault

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def get_file(self, remote, local, **options):
        if "m/2" in remote:
            self.fault(self._inner, remote, local)
        else:
            self._inner.get_file(remote, local, **options)


def cut_off(storage, remote, local):
    with open(local, "wb") as file:
        file.write(b"tw")
    raise ConnectionResetError("connection lost")


def end_early(storage, remote, local):
    with open(local, "wb") as file:
        file.write(b"tw")


def change_meanwhile(storage, remote, local):
    storage.get_file(remote, local)
    with storage.open(remote, "wb") as file:
        file.write(b"TWO")


@pytest.mark.parametrize(
    ("fault", "text"),
    [(cut_off, "connection lost"), (end_early, "2 of 3 bytes came"), (change_meanwhile, "changed while it was")],
)
async def test_an_interrupted_download_leaves_everything_as_it_was(remote, fault, text):
    remote.put("m/1/model.onnx", b"one")
    remote.put("m/2/model.onnx", b"old")
    await remote.sync()
    remote.put("m/2/model.onnx", b"two")
    remote.put("m/3/model.onnx", b"three")
    remote.remove("m/1")
    whole = remote.repository._storage
    remote.repository._storage = Breaking(whole, fault)
    with pytest.raises(RepositoryUnreachable, match=f"m/2: .*{text}"):
        await remote.sync()
    # The broken one as it was, others that are whole are there, nothing was removed.
    assert remote.tree == {"m/1/model.onnx": b"one", "m/2/model.onnx": b"old", "m/3/model.onnx": b"three"}
    remote.repository._storage = whole
    assert await remote.sync()
    assert {path: content.lower() for path, content in remote.tree.items()} == {
        "m/2/model.onnx": b"two",
        "m/3/model.onnx": b"three",
    }


async def test_more_than_was_announced_is_not_taken(bucket, tmp_path, monkeypatch):
    client, name = bucket
    client.put_object(Bucket=name, Key="m/1/model.onnx", Body=b"x" * 100)
    repository = RemoteRepository(f"s3://{name}", tmp_path)
    listing = repository._list()
    monkeypatch.setattr(repository, "_list", lambda: [RemoteFile(listing[0].path, 10, listing[0].identity)])
    with pytest.raises(RepositoryUnreachable, match="more than the 10 bytes"):
        await repository.sync()
    assert tree(repository.folder) == {}


async def test_an_unreachable_or_empty_remote_removes_nothing(remote):
    remote.put("m/1/model.onnx", b"one")
    await remote.sync()
    remote.remove("m")
    with pytest.raises(RepositoryUnreachable, match=r"is empty|cannot be listed"):
        await remote.sync()
    assert remote.tree == {"m/1/model.onnx": b"one"}


async def test_a_start_without_the_storage_uses_the_copy_if_there_is_one(tmp_path, caplog):
    remote = Remote(f"memory://{tmp_path.name}", tmp_path / "cache")
    with pytest.raises(RepositoryUnreachable, match="empty"):
        await remote.repository.start()
    remote.put("m/1/model.onnx", b"one")
    await remote.repository.start()
    remote.remove("m")
    await RemoteRepository(remote.url, tmp_path / "cache").start()
    assert "Starting with the copy of an earlier run" in caplog.text


async def test_a_damaged_copy_is_mended(tmp_path):
    remote = Remote(f"memory://{tmp_path.name}", tmp_path / "cache")
    remote.put("m/1/model.onnx", b"one")
    remote.put("n/1/model.onnx", b"one")
    await remote.sync()
    (remote.repository.folder / "m/1/model.onnx").write_bytes(b"o")
    (remote.repository.folder / "n/1").unlink()
    (remote.repository.folder / "n/1").mkdir()
    await remote.sync()
    assert remote.tree == {"m/1/model.onnx": b"one", "n/1/model.onnx": b"one"}
    (remote.repository.folder.parent / "manifest.json").write_text("{")
    await remote.sync()
    assert remote.tree == {"m/1/model.onnx": b"one", "n/1/model.onnx": b"one"}


async def test_limits(tmp_path):
    remote = Remote(f"memory://{tmp_path.name}", tmp_path / "cache", max_files=2, max_bytes=10)
    remote.put("m/1/model.onnx", b"12345678901")
    with pytest.raises(RepositoryUnreachable, match="1 files of 11 bytes; 2 files and 10 bytes are the limit"):
        await remote.sync()


async def test_names_that_lead_elsewhere_are_left_out(bucket, tmp_path, caplog):
    client, name = bucket
    keys = ["../up/1/model.onnx", "m/../../x", "/abs/1/model.onnx", "m/./1", "m//1/model.onnx", "m/1\\..\\x", ".git/x"]
    for key in ["m/1/model.onnx", "m/2/", "m/2/model.onnx", "n/1", "n/1/model.onnx", "top", "m/1/\x7f", *keys]:
        with contextlib.suppress(client.exceptions.ClientError):
            client.put_object(Bucket=name, Key=key, Body=b"x" if not key.endswith("/") else b"")
    repository = RemoteRepository(f"s3://{name}", tmp_path / "a" / "b")
    await repository.sync()
    assert set(tree(repository.folder)) == {"m/1/model.onnx", "m/2/model.onnx", "n/1/model.onnx"}
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
    assert "is no file of a model and is left out" in caplog.text
    caplog.clear()
    await repository.sync()
    assert "left out" not in caplog.text


async def test_a_prefix_is_a_folder_and_not_the_beginning_of_another(bucket, tmp_path):
    client, name = bucket
    for key in ("models/m/1/model.onnx", "models2/n/1/model.onnx"):
        client.put_object(Bucket=name, Key=key, Body=b"x")
    repository = RemoteRepository(f"s3://{name}/models/", tmp_path)
    await repository.sync()
    assert set(tree(repository.folder)) == {"m/1/model.onnx"}


async def test_errors_say_what_to_do(s3_environment, bucket, tmp_path, monkeypatch):
    with pytest.raises(RepositoryUnreachable, match=r"'s3://nowhere' (cannot be listed: there is no such|is empty)"):
        await RemoteRepository("s3://nowhere", tmp_path).sync()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RepositoryUnreachable, match="it cannot be reached; check the network, and AWS_ENDPOINT_URL"):
        await RemoteRepository("s3://nowhere", tmp_path).sync()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(RepositoryUnreachable, match="no credentials were found; set AWS_ACCESS_KEY_ID"):
        await RemoteRepository("s3://nowhere", tmp_path).sync()


def test_wrong_urls_and_missing_libraries(tmp_path, monkeypatch):
    with pytest.raises(StartError, match="has credentials in it") as caught:
        RemoteRepository("s3://key:secret@bucket", tmp_path)
    assert "secret" not in str(caught.value)
    with pytest.raises(StartError, match="cannot be used: Protocol not known"):
        RemoteRepository("nope://bucket", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"cache cannot be used.*Set --repository-cache"):
        RemoteRepository("memory://x", tmp_path / "file")
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StartError, match=r"Install 'conveyor-server\[s3\]'"):
        RemoteRepository("s3://bucket", tmp_path)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(StartError, match=r"Install 'conveyor-server\[s3\]'"):
        RemoteRepository("s3://bucket", tmp_path)


async def test_a_full_disk_is_noticed_before(tmp_path, monkeypatch):
    remote = Remote(f"memory://{tmp_path.name}", tmp_path / "cache")
    remote.put("m/1/model.onnx", b"one")
    monkeypatch.setattr(remote_repository.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2}))
    with pytest.raises(RepositoryUnreachable, match=r"3 bytes are needed in .* and 2 are free"):
        await remote.sync()


def test_links_in_the_cache_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    mirror = LocalMirror(tmp_path / "cache")
    (mirror.models / "m").symlink_to(outside)
    with mirror.locked():
        mirror.place("m/1", [RemoteFile("m/1/model.onnx", 1, "")], lambda file, target: target.write_bytes(b"x"))
    assert list(outside.iterdir()) == []
    assert (mirror.models / "m/1/model.onnx").read_bytes() == b"x"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "models").symlink_to(outside)
    with pytest.raises(OSError, match="is a link"):
        LocalMirror(tmp_path / "other")


@given(st.text(alphabet="ab1./\\\0 \n", max_size=12))
def test_safe_paths_stay_inside(path):
    if is_safe(path):
        assert not os.path.isabs(path)
        assert os.path.normpath(path) == path
        assert not path.startswith("..")


@given(st.lists(st.sampled_from(["m/1/a", "m/1/b/c", "m/10/a", "m/x", "m/x/1", "n/1"]), unique=True))
def test_units_are_version_folders_or_single_files(paths):
    grouped = units([RemoteFile(path, 0, "") for path in paths])
    assert sorted(file.path for files in grouped.values() for file in files) == sorted(paths)
    for unit, files in grouped.items():
        assert all(file.path == unit or file.path.startswith(unit + "/") for file in files)
