"""Owns the meaning of a network and its training written as TOML. Knows nothing of the data and of the command line."""

import dataclasses
import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conveyor_exporter import activations, layers, losses, metrics, optimizers
from conveyor_exporter.arguments import Shape, did_you_mean, sample_shape
from conveyor_exporter.errors import ExporterError, InvalidSpecification
from conveyor_exporter.layers.options import LayerOptions
from conveyor_exporter.losses import Loss
from conveyor_exporter.models import Sequential
from conveyor_exporter.optimizers import Optimizer
from conveyor_exporter.sources.toml_table import TomlTable, flatten
from conveyor_exporter.training.early_stopping import EarlyStopping

_NOT_FOR_SPECIFICATIONS = {"Layer", "SpatialLayer", "Input", "InputLayer"}  # bases, and what `input_shape` says already
LAYERS: Mapping[str, Callable[..., layers.Layer]] = {
    name: getattr(layers, name) for name in layers.__all__ if name not in _NOT_FOR_SPECIFICATIONS
}
"""The layers that `type` may name: a closed list, so that a specification can name nothing else."""

_TRAINING_KEYS = (
    *("optimizer", "loss", "metrics", "epochs", "batch_size", "shuffle"),
    *("validation_split", "test_split", "seed", "early_stopping"),
)


@dataclass(frozen=True)
class TrainingSettings:
    """How a specified network is trained.

    Attributes:
        optimizer: what changes the weights.
        loss: what it makes smaller.
        one_hot: whether the loss takes one-hot labels instead of class numbers.
        metrics: names of what is reported beside the loss.
        epochs: how often to go through all training pictures, at most.
        batch_size: pictures a step.
        shuffle: whether each epoch takes the pictures in a new order.
        validation_split: share of all pictures of each class to evaluate with after each epoch.
        test_split: share of all pictures of each class to measure the finished model with.
        seed: decides the split, the first weights, and the order of training.
        early_stopping: when to stop before the last epoch.
    """

    optimizer: str | Optimizer
    loss: str | Loss
    one_hot: bool
    metrics: tuple[str, ...]
    epochs: int
    batch_size: int
    shuffle: bool
    validation_split: float
    test_split: float
    seed: int
    early_stopping: EarlyStopping | None


@dataclass(frozen=True)
class Specification:
    """A network and its training.

    Attributes:
        content: the file's bytes.
        document: what they say.
        input_shape: the shape of one picture: height, width, channels.
        training: how it is trained.
    """

    content: bytes
    document: Mapping[str, Any]
    input_shape: Shape
    training: TrainingSettings

    def build(self) -> Sequential:
        """Return the network, fresh and compiled; torch's seed decides the first weights.

        Raises:
            InvalidSpecification: a layer cannot be, or does not fit behind the one before it.
        """
        model = Sequential()
        for number, table in enumerate(TomlTable(self.document).table("model").tables("layers")):
            layer = _layer(table, self.input_shape if number == 0 else None)
            try:
                model.add(layer)
            except ExporterError as error:
                table.blame(error)
        training = self.training
        model.compile(training.optimizer, training.loss, training.metrics)
        return model

    @property
    def identity(self) -> dict[str, str]:
        """Every value of the file by its path, in words."""
        return flatten(self.document)

    @property
    def training_in_words(self) -> dict[str, str]:
        """What the file says about the training, for people."""
        words = flatten(TomlTable(self.document).table("training").values)
        return {key.replace(".", " ").replace("_", " "): value.strip("'") for key, value in words.items()}


def read_specification(path: Path) -> Specification:
    """Return what a TOML file specifies.

    Raises:
        InvalidSpecification: it cannot be read, or something in it cannot be; the message begins with the key's path.
    """
    try:
        content = path.read_bytes()
        document = tomllib.loads(content.decode())
    except OSError as error:
        raise InvalidSpecification(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise InvalidSpecification(f"{path} is no TOML: {error}.") from error
    root = TomlTable(document)
    root.check_keys(("model", "training"))
    model = root.table("model")
    model.check_keys(("input_shape", "layers"))
    shape = model.require("input_shape", "the axes of one picture, such as [28, 28, 1]")
    input_shape = model.construct(sample_shape, {"value": shape, "owner": "model"})
    if len(input_shape) != 3:
        model.fail("input_shape", f"expected [height, width, channels], such as [28, 28, 1], got {shape!r}.")
    specification = Specification(content, document, input_shape, _training(root.table("training")))
    _check_answers(specification.build(), specification.training)
    return specification


def _layer(table: TomlTable, input_shape: Shape | None) -> layers.Layer:
    kind = table.require("type", "the name of a layer, such as 'Conv2D'")
    if kind not in LAYERS:
        table.fail("type", f"{kind!r} is no layer; known are {', '.join(LAYERS)}.{did_you_mean(str(kind), LAYERS)}")
    parameters = inspect.signature(LAYERS[kind]).parameters
    own = [name for name in parameters if name != "options"]
    table.check_keys(["type", *own, *sorted(LayerOptions.__optional_keys__)])
    for name in own:
        if parameters[name].default is inspect.Parameter.empty:
            table.require(name, f"a value, because {kind} needs it")
    arguments = {key: value for key, value in table.values.items() if key != "type"}
    if input_shape is not None:
        arguments.setdefault("input_shape", list(input_shape))
    return table.construct(LAYERS[kind], arguments)


def _training(table: TomlTable) -> TrainingSettings:
    table.check_keys(_TRAINING_KEYS)
    table.require("loss", f"one of {', '.join(losses.NAMED)}")
    names = table.values.get("metrics", ["accuracy"])
    table.construct(metrics.get_all, {"identifiers": names})
    stopping = None
    if "early_stopping" in table.values:
        rule = table.table("early_stopping")
        rule.check_keys(field.name for field in dataclasses.fields(EarlyStopping))
        stopping = rule.construct(EarlyStopping, rule.values)
    shuffle = table.values.get("shuffle", True)
    if not isinstance(shuffle, bool):
        table.fail("shuffle", f"expected true or false, got {shuffle!r}.")
    loss = _named(table, "loss", losses.CONFIGURABLE, losses.get)
    settings = TrainingSettings(
        optimizer=_named(table, "optimizer", optimizers.NAMED, optimizers.get, "adam"),
        loss=loss,
        one_hot=loss is losses.categorical_crossentropy or isinstance(loss, losses.CategoricalCrossentropy),
        metrics=tuple(names),
        epochs=table.integer("epochs", 10, at_least=1),
        batch_size=table.integer("batch_size", 32, at_least=1),
        shuffle=shuffle,
        validation_split=table.share("validation_split", 0.0, zero=True),
        test_split=table.share("test_split", 0.2, zero=False),
        seed=table.integer("seed", 0, at_least=0),
        early_stopping=stopping,
    )
    if settings.validation_split + settings.test_split >= 1:
        table.fail("validation_split", f"with test_split={settings.test_split} nothing is left to train on.")
    if stopping is not None and stopping.monitor.startswith("val_") and not settings.validation_split:
        table.fail("early_stopping.monitor", f"{stopping.monitor} needs `validation_split` above 0.")
    return settings


def _named(
    table: TomlTable, key: str, classes: Mapping[str, Callable[..., Any]], get: Callable[..., Any], default: str = ""
) -> Any:
    """Return what a name, or a table of a `name` and settings, stands for."""
    value = table.values.get(key, default)
    if not isinstance(value, Mapping):
        return table.construct(get, {"identifier": value})
    inner = table.table(key)
    name = inner.require("name", f"one of {', '.join(classes)}")
    if not isinstance(name, str) or name.lower() not in classes:
        inner.fail("name", f"expected one of {', '.join(classes)}, got {name!r}.{did_you_mean(str(name), classes)}")
    made = classes[name.lower()]
    inner.check_keys(["name", *inspect.signature(made).parameters])
    return inner.construct(made, {field: setting for field, setting in inner.values.items() if field != "name"})


def _check_answers(model: Sequential, training: TrainingSettings) -> None:
    """Accept a network that answers with probabilities, as many as its loss takes."""
    units = model.output_shape[0]
    if len(model.output_shape) != 1:
        raise InvalidSpecification(f"model.layers: the network must end in [units], but gives {model.output_shape}.")
    if (units == 1) != _is_binary(training.loss):
        raise InvalidSpecification(
            f"training.loss: a network with {units} output{'s' if units > 1 else ''} needs "
            + ("loss = 'binary_crossentropy'." if units == 1 else "loss = 'sparse_categorical_crossentropy'.")
        )
    last = model.layers[-1]
    ending = activations.softmax if isinstance(last, layers.Softmax) else getattr(last, "activation", None)
    if ending not in ((activations.sigmoid, activations.hard_sigmoid) if units == 1 else (activations.softmax,)):
        raise InvalidSpecification(
            f"model.layers[{len(model.layers) - 1}]: the network must end in probabilities, activation = "
            + ("'sigmoid' for one unit." if units == 1 else "'softmax' for several units.")
        )


def _is_binary(loss: object) -> bool:
    return loss is losses.binary_crossentropy or isinstance(loss, losses.BinaryCrossentropy)
