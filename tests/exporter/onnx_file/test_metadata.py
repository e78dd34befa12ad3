import dataclasses
import hashlib
import json

import pytest

from conveyor_exporter.onnx_file.file_format import InputDtype
from conveyor_exporter.onnx_file.metadata import Metadata, Source, Task


def test_binary_properties():
    metadata = Metadata.for_units(1, ["even", "odd"], training_metrics={"test_samples": 1000, "test_accuracy": 0.97})
    properties = metadata.to_properties()
    assert list(properties) == sorted(properties)
    assert properties.pop("conveyor.exporter_version")
    assert properties == {
        "conveyor.format_version": "1",
        "conveyor.input.dtype": "float32",
        "conveyor.input.layout": "NHWC",
        "conveyor.input.range": "[0.0, 1.0]",
        "conveyor.labels": '["even", "odd"]',
        "conveyor.precision": "float32",
        "conveyor.task": "binary_classification",
        "conveyor.threshold": "0.5",
        "conveyor.training.metrics": '{"test_accuracy": 0.97, "test_samples": 1000}',
    }


def test_multiclass_properties():
    properties = Metadata.for_units(3, ["chat", "chien", "élan"], input_range=(0, 255)).to_properties()
    assert json.loads(properties["conveyor.labels"]) == ["chat", "chien", "élan"]
    assert properties["conveyor.task"] == "multiclass_classification"
    assert properties["conveyor.input.range"] == "[0.0, 255.0]"
    assert "conveyor.threshold" not in properties


def test_the_properties_are_in_the_file(exported_tutorial):
    stored = {entry.key: entry.value for entry in exported_tutorial[1].metadata_props}
    assert stored == Metadata.for_units(1, ["even", "odd"]).to_properties()
    assert list(stored) == sorted(stored)


def test_outputs_are_named_by_their_task():
    assert (Task.BINARY.output_name, Task.MULTICLASS.output_name) == ("probability", "probabilities")


@pytest.mark.parametrize(
    ("units", "labels", "options", "message"),
    [
        (1, ["odd"], {}, "must be 2 names"),
        (3, ["a", "b"], {}, "must be 3 names"),
        (2, "ab", {}, "must be 2 names"),
        (2, ["a", "a"], {}, "different strings"),
        (2, [0, 1], {}, "different strings"),
        (1, ["a", "b"], {"threshold": 1.5}, "between 0 and 1"),
        (1, ["a", "b"], {"input_range": (1, 0)}, "smallest, largest"),
    ],
)
def test_metadata_that_cannot_be_is_refused(units, labels, options, message):
    with pytest.raises(ValueError, match=message):
        Metadata.for_units(units, labels, **options)


def test_the_source_is_named_by_its_hash():
    metadata = Metadata.for_units(1, ["a", "b"], source=Source.of("keras", b"content"))
    properties = metadata.to_properties()
    assert properties["conveyor.source.format"] == "keras"
    assert properties["conveyor.source.sha256"] == hashlib.sha256(b"content").hexdigest()
    with pytest.raises(ValueError, match="SHA-256 in hexadecimal"):
        Source("keras", "cafe")


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((28, 20, 1), InputDtype.FLOAT32, {"color": "grayscale", "dtype": "float32", "scale": 2 / 255, "offset": -1.0}),
        ((28, 20, 3), InputDtype.UINT8, {"color": "RGB", "dtype": "uint8", "scale": 1.0, "offset": 0.0}),
        ((28, 20, 7), InputDtype.UINT8, {"color": None, "dtype": "uint8", "scale": 1.0, "offset": 0.0}),
    ],
)
def test_preprocessing_says_what_to_do_with_a_picture(shape, dtype, expected):
    metadata = Metadata.for_units(1, ["a", "b"], input_range=(-1, 1))
    properties = dataclasses.replace(metadata, input_shape=shape, input_dtype=dtype).to_properties()
    size = {"height": 28, "width": 20, "layout": "NHWC"}
    assert json.loads(properties["conveyor.preprocessing"]) == size | expected


def test_what_is_no_picture_has_no_preprocessing():
    metadata = dataclasses.replace(Metadata.for_units(1, ["a", "b"]), input_shape=(784,))
    assert "conveyor.preprocessing" not in metadata.to_properties()
