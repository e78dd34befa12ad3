import numpy as np
import pytest

from conveyor_exporter.pictures.labelled_data import LabelledData


def test_data_take_their_types():
    data = LabelledData(np.zeros((3, 2, 2, 1), np.float64), [0, 1, 1])
    assert (data.images.dtype, data.labels.dtype, len(data)) == (np.float32, np.int64, 3)
    data.check_fits((2, 2, 1), 2)


IMAGES = np.zeros((2, 4))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, [0], "as many labels"),
        (IMAGES[:0], [], "at least one"),
        (np.zeros(2), [0, 1], "images"),
        (IMAGES, [[0], [1]], r"labels \[2, 1\]"),
        (IMAGES, [0.0, 1.0], "class numbers from 0, got float64"),
        (IMAGES, [0, -1], "smallest -1"),
        (IMAGES * np.nan, [0, 1], "nan or infinite"),
    ],
)
def test_data_that_cannot_be_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        LabelledData(images, labels)


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [((5,), 3, r"\[samples, \*\(5,\)\]"), ((4,), 2, "reach to 2, but the model knows 2 classes")],
)
def test_data_that_do_not_fit_a_model_are_refused(shape, classes, message):
    with pytest.raises(ValueError, match=message):
        LabelledData(IMAGES, [0, 2]).check_fits(shape, classes)
