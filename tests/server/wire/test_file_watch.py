import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.errors import StartError
from conveyor_server.wire import file_watch
from conveyor_server.wire.file_watch import WatchedFiles


class Pair:
    """Two files that must say the same, as a certificate and its key do."""

    def __init__(self, folder):
        self.folder = folder
        self.paths = [folder / "one", folder / "two"]
        self.write("first")
        self.watched = WatchedFiles("Pair", self.paths, self.read)

    def write(self, text, *numbers):
        for number in numbers or (0, 1):
            draft = self.folder / "draft"
            draft.write_text(text)
            draft.replace(self.paths[number])

    def read(self):
        try:
            texts = {path.read_text() for path in self.paths}
        except OSError as error:
            raise StartError("they are gone") from error
        if len(texts) != 1 or "broken" in texts:
            raise StartError("they do not fit")
        return texts.pop()


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path)


def test_what_cannot_be_read_at_the_start_is_an_error(pair):
    pair.paths[0].unlink()
    with pytest.raises(StartError, match="gone"):
        WatchedFiles("Pair", [], pair.read)


def test_only_a_change_is_read(pair):
    assert not pair.watched.look()
    pair.write("second")
    assert pair.watched.look()
    assert pair.watched.value == "second"
    assert not pair.watched.look()


def test_half_a_change_is_not_complained_of_at_once(pair, caplog):
    pair.write("second", 0)
    assert not pair.watched.look()
    pair.write("second", 1)
    assert pair.watched.look()
    assert pair.watched.value == "second"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_is_broken_replaces_nothing_and_is_complained_of_once(pair, caplog):
    pair.write("broken")
    for _ in range(5):
        assert not pair.watched.look()
    assert pair.watched.value == "first"
    assert pair.watched.stale
    (complaint,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert complaint == "Pair: what was read before stays in use. they do not fit"
    pair.paths[0].unlink()
    for _ in range(5):
        pair.watched.look()
    assert [record.getMessage()[-13:] for record in caplog.records] == ["they do not fit"[-13:], "they are gone"]
    pair.write("third")
    assert pair.watched.look()
    assert pair.watched.value == "third"
    assert not pair.watched.stale


def test_a_reader_that_fails_in_its_own_way_does_not_end_the_watch(pair, caplog, monkeypatch):
    monkeypatch.setattr(pair.watched, "_read", lambda: 1 / 0)
    pair.write("second")
    for _ in range(3):
        assert not pair.watched.look()
    assert "division by zero" in caplog.text


def test_a_link_that_is_swapped_is_a_change(tmp_path):
    """As Kubernetes does it: the files are links through `..data`, which is renamed over."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "..data").symlink_to("first")
    (tmp_path / "file").symlink_to("..data/file")
    watched = WatchedFiles("Secret", [tmp_path / "file"], (tmp_path / "file").read_text)
    (tmp_path / "..tmp").symlink_to("second")
    os.replace(tmp_path / "..tmp", tmp_path / "..data")
    assert watched.look()
    assert watched.value == "second"


async def test_the_watch_tells_of_each_new_value_and_can_be_ended(pair, monkeypatch):
    monkeypatch.setattr(file_watch, "LOOK_SECONDS", 0)
    told = asyncio.Event()
    watching = asyncio.create_task(pair.watched.watch(told.set))
    pair.write("second")
    await asyncio.wait_for(told.wait(), 30)
    assert pair.watched.value == "second"
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


@given(
    st.lists(
        st.one_of(st.just("look"), st.tuples(st.sampled_from(["a", "b", "broken"]), st.integers(0, 1))), max_size=30
    )
)
def test_the_value_is_always_one_that_both_files_had_and_the_newest_after_a_look(tmp_path_factory, steps):
    pair = Pair(tmp_path_factory.mktemp("pair"))
    texts, good = ["first", "first"], {"first"}
    for step in steps:
        if step == "look":
            pair.watched.look()
            if texts[0] == texts[1] != "broken":
                assert pair.watched.value == texts[0]
        else:
            texts[step[1]] = step[0]
            pair.write(*step)
            if texts[0] == texts[1]:
                good |= set(texts) - {"broken"}
        assert pair.watched.value in good
