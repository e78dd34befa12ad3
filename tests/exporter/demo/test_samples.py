import numpy as np
import pytest
from PIL import Image

from conveyor_exporter.__main__ import run
from conveyor_exporter.demo import digits


def test_samples_are_pictures_of_digits_that_were_held_out(tmp_path, capsys):
    assert run(["samples", str(tmp_path / "new"), "--count", "12"]) == 0
    paths = sorted((tmp_path / "new").glob("*/*.png"))
    assert [path.parent.name for path in paths] == sorted([*"0123456789", "0", "1"])
    assert "12 pictures" in capsys.readouterr().out
    training, test = digits.split(digits.load_digits(), 0)
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image, np.float32)[:, :, None] / np.float32(255)
        held_out = test.images[test.labels == int(path.parent.name)]
        assert (held_out == pixels).all(axis=(1, 2, 3)).any()
        assert not (training.images == pixels).all(axis=(1, 2, 3)).any()


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(["samples", str(tmp_path / "file")]) == 1
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["x", "--count", "0"]])
def test_wrong_usage(arguments, capsys):
    assert run(["samples", *arguments]) == 2
