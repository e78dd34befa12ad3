import io

import numpy as np
import pytest
from PIL import Image

from conveyor_exporter.layers import Conv2D, Dense, Flatten
from conveyor_exporter.models import Sequential
from conveyor_exporter.pictures.labelled_data import LabelledData
from conveyor_exporter.pipeline import export
from conveyor_exporter.report import figures
from conveyor_exporter.report.model_card import CardFacts, card
from conveyor_exporter.training.trainer import History


def looks_left(channels=1):
    """A model that says yes where the left pixel is bright and the right one dark; its second filter sees nothing."""
    model = Sequential(
        [Conv2D(2, (1, 2), activation="relu", input_shape=(1, 2, channels)), Flatten(), Dense(1, "sigmoid")]
    )
    kernel = np.zeros((1, 2, channels, 2))
    kernel[0, :, :, 0] = [[4], [-4]]
    model.set_weights([kernel, np.zeros(2), np.array([[2.0], [0.0]]), np.array([-1.0])])
    return model


TEST = LabelledData(
    np.array([[1, 0], [0, 1], [0.5, 0], [0, 0], [0, 0.5], [0.4, 0.1]], np.float32).reshape(6, 1, 2, 1),
    np.array([1, 0, 1, 0, 1, 0]),
)


def make(tmp_path, name="left", **facts):
    beside = card(looks_left(), CardFacts(about="Looks left.", test=TEST, **facts))
    exported = export(looks_left(), tmp_path, name=name, labels=["no", "yes"], beside=beside)
    folder = exported.published.path.parent
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_numbers_are_right(tmp_path):
    text = make(tmp_path)["README.md"].decode()
    assert "It is right about 4 of 6 pictures that it was not trained on: 66.7%." in text
    assert "| no | 3 | 2 | 66.7% | 66.7% |" in text
    assert "| yes | 3 | 2 | 66.7% | 66.7% |" in text
    assert "`conv2d` slides 2 small filters of 1x2 pixels" in text
    assert "filter 0 answers most, and filter 1 not at all: what it looks for is not there." in text
    assert "## Where it is wrong\n\nAbout 2 of the 6 test pictures.\n" in text
    assert "## Training" not in text
    assert "## Data" not in text
    assert "largest difference" in text


def test_the_same_facts_make_the_same_bytes(tmp_path):
    history = History({"accuracy": [0.5, 0.6], "loss": [0.9, 0.8], "val_loss": [1.0, 1.1]}, [0, 1], best_epoch=0)
    facts = {"history": history, "sizes": {"test": 6}, "settings": {"loss": "mse"}, "data": ("From <here>.",)}
    first, second = make(tmp_path, "a", **facts), make(tmp_path / "other", "a", **facts)
    assert first == second
    text = first["README.md"].decode()
    assert "It ran for 2 epochs, and gave the model the weights after epoch 1, the best one." in text
    assert r"From \<here\>." in text
    assert "learning_curves.png" in first


def test_a_model_without_convolution_or_mistakes_leaves_those_out(tmp_path):
    model = Sequential([Flatten(input_shape=(1, 2, 1)), Dense(1, "sigmoid")])
    model.set_weights([np.array([[9.0], [-9.0]]), np.zeros(1)])
    test = LabelledData(TEST.images[:2], TEST.labels[:2])
    beside = card(model, CardFacts("Flat.", test))
    path = export(model, tmp_path, name="flat", labels=["no", "yes"], beside=beside).published.path
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["README.md", "confusion_matrix.png", "model.onnx"]
    assert "100.0%" in path.with_name("README.md").read_text()


def size(content):
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        return picture.size


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_figures_take_pictures_of_any_channels(channels):
    generator = np.random.default_rng(0)
    picture = generator.random((6, 9, channels))
    mistakes = [figures.Mistake(picture, "$a_b$", "文字" * 9, 0.5)] * 7
    assert size(figures.worst_mistakes(mistakes)) == (800, 400)
    assert size(figures.filters(generator.normal(size=(3, 3, channels, 40))))[0] == 800
    assert size(figures.activation_maps(picture, generator.random((4, 7, 1)), "title"))[0] == 800


def test_figures_of_extremes():
    assert size(figures.filters(np.zeros((1, 1, 1, 1))))[0] == 800
    assert size(figures.activation_maps(np.zeros((2, 2, 1)), np.zeros((1, 1, 3)), ""))[0] == 800
    assert size(figures.confusion_matrix(np.zeros((60, 60), np.int64), [str(n) for n in range(60)]))[0] == 800
    assert size(figures.learning_curves({"loss": [float("nan"), 1.0]}, None))[0] == 800
