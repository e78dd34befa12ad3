import numpy as np
import pytest
from PIL import Image

from conveyor_server.client import ModelDescription
from conveyor_server.client.pictures import PictureError, as_input, picture_shape, read_picture, render
from conveyor_server.core.model import TensorSpec


def description(shape=(-1, 4, 6, 1), datatype="FP32", **parameters):
    tensor = TensorSpec("image", datatype, shape)
    names = {f"conveyor.{key.replace('_', '.')}": value for key, value in parameters.items()}
    return ModelDescription("m", "1", (tensor,), (tensor,), names)


@pytest.fixture
def save(tmp_path):
    def save(array, name="picture.png", mode=None):
        path = tmp_path / name
        Image.fromarray(array).convert(mode).save(path)
        return path

    return save


GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def test_a_picture_of_the_right_size_is_taken_as_it_is(save):
    picture = read_picture(save(GREY), (4, 6, 1))
    np.testing.assert_array_equal(picture.pixels, GREY[:, :, None])
    assert picture.resized_from is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1"])
def test_colours_become_grey_and_grey_becomes_colours(save, mode):
    path = save(GREY, mode=mode)
    assert read_picture(path, (4, 6, 1)).pixels.shape == (4, 6, 1)
    assert read_picture(path, (4, 6, 3)).pixels.shape == (4, 6, 3)


def test_a_jpeg_of_another_size_is_resized_and_it_is_said(save):
    picture = read_picture(save(np.full((40, 30), 200, np.uint8), "picture.jpg"), (4, 6, 1))
    assert picture.resized_from == (40, 30)
    assert picture.pixels.shape == (4, 6, 1)
    assert abs(picture.pixels.astype(int) - 200).max() <= 3


def test_pixels_are_scaled_to_the_models_range(save):
    picture = read_picture(save(np.array([[0, 255]] * 2, np.uint8)), (2, 2, 1))
    assert as_input([picture], description()).tolist() == [[[[0], [1]], [[0], [1]]]]
    scaled = as_input([picture, picture], description(input_range="[-1.0, 1.0]"))
    assert (scaled.shape, scaled.dtype, scaled.min(), scaled.max()) == ((2, 2, 2, 1), np.float32, -1, 1)
    assert as_input([picture], description(datatype="UINT8")).dtype == np.uint8


@pytest.mark.parametrize("shape", [(-1, 16), (-1, 4, 4, 2), (-1, -1, -1, 1)])
def test_a_model_that_takes_no_pictures_says_so(shape):
    with pytest.raises(PictureError, match="Model 'm' takes no pictures: its input is"):
        picture_shape(description(shape))
    assert picture_shape(description()) == (4, 6, 1)


def test_files_that_are_no_pictures_are_named(tmp_path):
    with pytest.raises(PictureError, match=r"'.*nothing.png' cannot be read: .*No such file"):
        read_picture(tmp_path / "nothing.png", (1, 1, 1))
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(PictureError, match=r"'.*text.png' is not a picture"):
        read_picture(tmp_path / "text.png", (1, 1, 1))


@pytest.mark.parametrize("height", [4, 5])
def test_a_picture_is_shown_two_rows_a_line(save, height):
    picture = read_picture(save(np.zeros((height, 3), np.uint8)), (height, 3, 1))
    lines = render(picture).plain.splitlines()
    assert [len(line) for line in lines] == [3] * ((height + 1) // 2)
