import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from conveyor_exporter.pictures.dataset import Dataset, read_dataset
from conveyor_exporter.pictures.labelled_data import LabelledData

SHAPE = (4, 5, 1)
PIXELS = np.arange(20, dtype=np.uint8).reshape(4, 5)


def read(path, shape=SHAPE, input_range=(0.0, 1.0), labels=None):
    return read_dataset(path, shape, input_range, labels, Console(quiet=True))


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def test_bytes_are_spread_over_the_input_range(tmp_path):
    path = npz(tmp_path, x=np.array([[[0, 255, 51, 0, 0]] * 4] * 2, np.uint8), y=[0, 1])
    dataset = read(path)
    assert dataset.samples.images.dtype == np.float32
    np.testing.assert_allclose(dataset.samples.images[0, 0, :3, 0], [0, 1, 0.2])
    np.testing.assert_allclose(read(path, input_range=(-1, 1)).samples.images[0, 0, :3, 0], [-1, 1, -0.6], atol=1e-6)
    np.testing.assert_array_equal(read(path, input_range=(0, 255)).samples.images[0, 0, :3, 0], [0, 255, 51])


X = np.zeros((4, *SHAPE), np.float32)


@pytest.mark.parametrize(
    ("arrays", "labels", "numbers", "classes"),
    [
        ({"y": [0, 1, 1, 0]}, None, [0, 1, 1, 0], ("0", "1")),
        ({"y": np.array([[0.0], [1], [1], [0]])}, ("no", "yes"), [0, 1, 1, 0], ("no", "yes")),
        ({"y": [True, False, True, True]}, None, [1, 0, 1, 1], ("0", "1")),
        ({"y": np.eye(3)[[2, 0, 1, 1]]}, None, [2, 0, 1, 1], ("0", "1", "2")),
        ({"y": ["dog", "cat", "cat", "dog"]}, None, [1, 0, 0, 1], ("cat", "dog")),
        ({"y": ["dog", "cat", "cat", "dog"]}, ("dog", "cat"), [0, 1, 1, 0], ("dog", "cat")),
        ({"y": [1, 0, 0, 1], "labels": ["cat", "dog"]}, None, [1, 0, 0, 1], ("cat", "dog")),
    ],
)
def test_labels_come_as_numbers_names_or_one_hot(tmp_path, arrays, labels, numbers, classes):
    dataset = read(npz(tmp_path, x=X, **arrays), labels=labels)
    assert dataset.samples.labels.tolist() == numbers
    assert dataset.classes == classes


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": X, "y": [0, 1, 0, 1]}, r"has no array 'x'; it has X, y"),
        ({"x": X, "y": [0, 1]}, r"one entry a picture, got 4 and 2"),
        ({"x": X[:0], "y": []}, r"got 0 and 0"),
        ({"x": X[:, :3], "y": [0, 1, 0, 1]}, r"shape \[samples, 4, 5, 1\], got \(4, 3, 5, 1\)"),
        ({"x": X + 2, "y": [0, 1, 0, 1]}, r"outside the input range 0 to 1\. .*--input-range"),
        ({"x": X * np.nan, "y": [0, 1, 0, 1]}, r"nan or infinite"),
        ({"x": X.astype(int), "y": [0, 1, 0, 1]}, r"must be uint8 or floating point, got int64"),
        ({"x": X, "y": [0, 1, 0.5, 1]}, r"must be class numbers from 0 or class names, got float64"),
        ({"x": X, "y": [0, 1, -1, 1]}, r"must be class numbers"),
        ({"x": X, "y": np.ones((4, 2))}, r"one-hot \[samples, classes\], got \(4, 2\)"),
        ({"x": X, "y": [0, 1, 2, 1], "labels": ["a", "b"]}, r"reaches to 2, but there are only 2 labels"),
        ({"x": X, "y": ["a", "b", "c", "a"], "labels": ["a", "b"]}, r"names the class 'c'"),
        ({"x": np.array([{}] * 4, object), "y": [0, 1, 0, 1]}, r"cannot read .* as an npz file"),
    ],
)
def test_arrays_that_cannot_be_are_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        read(npz(tmp_path, **arrays))


def test_other_files_are_refused(tmp_path):
    for name, content in (("a.npz", b"no zip"), ("b.npz", b""), ("c.txt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="npz file"):
            read(tmp_path / name)
    np.save(tmp_path / "d.npy", X)
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    with pytest.raises(ValueError, match="is one array"):
        read(tmp_path / "d.npz")
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "nowhere")


def picture(path, pixels=PIXELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_a_folder_of_class_folders(tmp_path):
    picture(tmp_path / "dog" / "1.png")
    picture(tmp_path / "cat" / "2.png", PIXELS + 5)
    picture(tmp_path / "cat" / "10.jpg", np.full((8, 10, 3), 200, np.uint8))
    picture(tmp_path / "cat" / "16.png", np.full((4, 5), 65535, np.uint16))
    np.save(tmp_path / "dog" / "2.npy", np.stack([PIXELS, PIXELS]))
    np.save(tmp_path / "dog" / "3.npy", PIXELS / np.float64(255))
    (tmp_path / "dog" / "4.png").write_bytes(b"torn")
    (tmp_path / "dog" / "notes.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    (tmp_path / ".hidden").mkdir()
    dataset = read(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.samples.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    np.testing.assert_allclose(
        dataset.samples.images[2:, :, :, 0], np.stack([PIXELS + 5, *[PIXELS] * 4]) / 255, rtol=1e-6
    )
    np.testing.assert_allclose(dataset.samples.images[0], 200 / 255, atol=0.01)  # JPEG is not exact
    np.testing.assert_array_equal(dataset.samples.images[1], 1)
    notes = "\n".join(dataset.notes)
    assert "1 of them were resized to 5x4 pixels" in notes
    assert "2 other files were left out" in notes
    assert "1 files could not be read and were left out:\n  dog/4.png: cannot identify" in notes
    swapped = read(tmp_path, labels=("dog", "cat"))
    assert (swapped.classes, swapped.samples.labels.tolist()) == (("dog", "cat"), [0, 0, 0, 0, 1, 1, 1])


def test_colours_follow_the_network(tmp_path):
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 255
    picture(tmp_path / "a" / "1.png", red)
    picture(tmp_path / "b" / "1.png")
    dataset = read(tmp_path, shape=(4, 5, 3))
    assert dataset.samples.images[0, 0, 0].tolist() == [1, 0, 0]
    assert read(tmp_path).samples.images.shape == (2, 4, 5, 1)
    with pytest.raises(ValueError, match="1, 3 or 4 channels; the network takes 2"):
        read(tmp_path, shape=(4, 5, 2))


def test_folders_without_classes_or_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a folder for each class, at least two; it has 0"):
        read(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="no picture that can be read"):
        read(tmp_path)
    with pytest.raises(ValueError, match="the class folders are a, b"):
        read(tmp_path, labels=("a", "c"))


def numbered(labels):
    images = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
    return Dataset(LabelledData(images, np.array(labels)), ("a", "b"))


def test_the_split_is_stratified_seeded_and_without_overlap():
    dataset = numbered([0] * 20 + [1] * 10)
    split = dataset.split(validation=0.1, test=0.2, seed=3)
    parts = [split.test, split.validation, split.training]
    assert [np.bincount(part.labels).tolist() for part in parts] == [[4, 2], [2, 1], [14, 7]]
    assert sorted(int(value) for part in parts for value in part.images.ravel()) == list(range(30))
    again, other = dataset.split(0.1, 0.2, 3), dataset.split(0.1, 0.2, 4)
    np.testing.assert_array_equal(split.test.images, again.test.images)
    assert not np.array_equal(split.test.images, other.test.images)
    assert dataset.split(0, 0.2, 0).validation is None


def test_a_class_with_too_few_pictures_is_named():
    with pytest.raises(ValueError, match="the class 'b' has 2 pictures; 3 are needed"):
        numbered([0] * 9 + [1] * 2).split(0.1, 0.1, 0)
    with pytest.raises(ValueError, match="the class 'b' has 0 pictures"):
        numbered([0] * 9).split(0, 0.1, 0)


def test_the_hash_tells_data_apart():
    base, labels = numbered([0, 1]), numbered([1, 0])
    renamed = Dataset(base.samples, ("a", "c"))
    assert len({base.sha256, labels.sha256, renamed.sha256}) == 3
    assert base.sha256 == numbered([0, 1]).sha256
