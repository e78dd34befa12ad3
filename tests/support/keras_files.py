"""Writes files as Keras does, by hand and without Keras, so that tests can change any part of them."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import h5py
import numpy as np

Json = dict[str, Any]

SHAPE = (6, 5, 1)
WEIGHTS = {
    "conv2d": [np.linspace(-1, 1, 18).reshape(3, 3, 1, 2), np.array([0.1, -0.2])],
    "dense": [np.linspace(-0.5, 0.5, 72).reshape(24, 3), np.array([0.3, 0.0, -0.3])],
}
NAMES = ("kernel", "bias")


def entry(class_name: str, name: str, **config: Any) -> Json:
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}
    config = {"name": name, "trainable": True, "dtype": policy, **config}
    return {"module": "keras.layers", "class_name": class_name, "config": config, "registered_name": None}


def config() -> Json:
    """The description of a network: Conv2D, Flatten, Dense with softmax."""
    layers = [
        entry("InputLayer", "input_layer", batch_shape=[None, *SHAPE], dtype="float32", sparse=False, ragged=False),
        entry("Conv2D", "first", filters=2, kernel_size=[3, 3], strides=[1, 1], activation="relu", use_bias=True),
        entry("Flatten", "flatten", data_format="channels_last"),
        entry("Dense", "last", units=3, activation="softmax", use_bias=True, kernel_initializer={"class_name": "X"}),
    ]
    model = {"name": "by_hand", "trainable": True, "layers": layers, "build_input_shape": [None, *SHAPE]}
    compile_config = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": model,
        "registered_name": None,
        "compile_config": compile_config,
    }


def functional_config() -> Json:
    """The same network, Functional."""
    model = config()
    layers = model["config"]["layers"]
    for number, layer in enumerate(layers):
        layer["name"] = layer["config"]["name"]
        history = [layers[number - 1]["config"]["name"], 0, 0]
        tensor = {"class_name": "__keras_tensor__", "config": {"shape": [None], "keras_history": history}}
        layer["inbound_nodes"] = [{"args": [tensor], "kwargs": {}}] if number else []
    model["class_name"] = model["registered_name"] = "Functional"
    model["module"] = "keras.src.models.functional"
    model["config"] |= {"input_layers": ["input_layer", 0, 0], "output_layers": ["last", 0, 0]}
    return model


def keras2_config() -> Json:
    """The same network as Keras 2 wrote it: no modules, types as text, the input shape in the first layer."""
    model = config()
    layers = [{"class_name": layer["class_name"], "config": layer["config"]} for layer in model["config"]["layers"][1:]]
    for layer in layers:
        layer["config"]["dtype"] = "float32"
    layers[0]["config"]["batch_input_shape"] = [None, *SHAPE]
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}


def archive_weights(change: Callable[[h5py.File], None] | None = None) -> bytes:
    """The member `model.weights.h5`; `change` may edit it."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("vars").attrs["name"] = "by_hand"
        file.create_group("layers/flatten/vars").attrs["name"] = "flatten"
        file.create_group("optimizer/vars").create_dataset("0", data=np.zeros(3))
        for name, (group, arrays) in zip(("first", "last"), WEIGHTS.items(), strict=True):
            variables = file.create_group(f"layers/{group}/vars")
            variables.attrs["name"] = name
            for number, array in enumerate(arrays):
                variables.create_dataset(str(number), data=array.astype(np.float32))
        if change is not None:
            change(file)
    return buffer.getvalue()


def metadata(version: str) -> bytes:
    """The member `metadata.json`."""
    return json.dumps({"keras_version": version, "date_saved": "2026-01-01@00:00:00"}).encode()


def archive(
    model: Json | str | None = None,
    weights: bytes | None = None,
    members: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """A `.keras` file; `members` replaces or adds some."""
    described = model if isinstance(model, str) else json.dumps(config() if model is None else model)
    content = {
        "metadata.json": metadata("3.15.1"),
        "config.json": described.encode(),
        "model.weights.h5": archive_weights() if weights is None else weights,
        **(members or {}),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, value in content.items():
            file.writestr(name, value)
    return buffer.getvalue()


def legacy(
    model: Json | None = None, change: Callable[[h5py.File], None] | None = None, suffix: str = "", prefix: str = ""
) -> bytes:
    """A legacy `.h5` of the whole model; Keras 2 has the suffix `:0` on the names of weights."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["keras_version"] = "3.15.1"
        file.attrs["model_config"] = json.dumps(config() if model is None else model)
        file.attrs["training_config"] = json.dumps({"loss": "sparse_categorical_crossentropy"})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = np.array([b"first", b"flatten", b"last"])
        group.create_group("flatten").attrs["weight_names"] = []
        for name, arrays in zip(("first", "last"), WEIGHTS.values(), strict=True):
            layer = group.create_group(name)
            paths = [f"{prefix}{name}/{weight}{suffix}" for weight in NAMES]
            layer.attrs["weight_names"] = np.array([path.encode() for path in paths])
            for path, array in zip(paths, arrays, strict=True):
                layer.create_dataset(path, data=array.astype(np.float32))
        if change is not None:
            change(file)
    return buffer.getvalue()


def layer(model: Json, name: str) -> Json:
    """The entry of a layer in a description."""
    return next(item for item in model["config"]["layers"] if item["config"]["name"] == name)


def replace_dataset(file: h5py.File, path: str, **options: Any) -> h5py.Dataset:
    """Put another dataset in place of one."""
    del file[path]
    return file.create_dataset(path, **options)
