import numpy as np
import pytest

from conveyor_server.client import Prediction, read_predictions


def test_many_classes():
    probabilities = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]])
    assert read_predictions(probabilities, ["a", "b", "c"]) == [Prediction("b", 0.7), Prediction("a", 0.5)]
    assert read_predictions(probabilities, []) == [Prediction("1", 0.7), Prediction("0", 0.5)]


def test_a_binary_model_says_yes_strictly_above_its_threshold():
    probabilities = np.array([[0.25], [0.5], [0.75]])
    got = read_predictions(probabilities, ["even", "odd"])
    assert got == [Prediction("even", 0.75), Prediction("even", 0.5), Prediction("odd", 0.75)]
    assert [p.label for p in read_predictions(probabilities, ["even", "odd"], threshold=0.1)] == ["odd"] * 3


@pytest.mark.parametrize(
    ("shape", "labels", "text"),
    [
        ((2, 3), ["a", "b"], "3 classes and 2 labels"),
        ((2,), [], r"got \[2\]"),
        ((1, 1), ["odd"], "2 classes and 1 labels"),
    ],
)
def test_what_does_not_fit_is_refused(shape, labels, text):
    with pytest.raises(ValueError, match=text):
        read_predictions(np.ones(shape), labels)
