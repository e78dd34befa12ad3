"""Owns the way from a model's description to an ordered chain of layers; Sequential, or Functional without branches.

Knows nothing of what a layer computes and nothing of weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.layers.base import snake_case
from conveyor_exporter.sources.keras_file.entries import INPUT, class_name_of, layer_name_of
from conveyor_exporter.sources.keras_file.functional import follow
from conveyor_exporter.sources.keras_file.json_text import Object, as_list, as_object, as_text, quoted

MAX_LAYERS = 500
MAX_NESTING = 4
MODELS = ("Sequential", "Functional", "Model")  # the last is what Keras 2 called a Functional model at first


@dataclass(frozen=True)
class StoredLayer:
    """One layer as a file describes it.

    Attributes:
        class_name: Keras' class.
        name: the layer's own name.
        config: its arguments, not looked at yet.
        group: where a `.keras` file keeps its weights, such as `layers`, `conv2d_1`.
        outermost: name of the layer of the whole model that it belongs to: itself, or the nested model around it.
    """

    class_name: str
    name: str
    config: Object
    group: tuple[str, ...]
    outermost: str

    @property
    def title(self) -> str:
        """How messages speak of the layer."""
        return f"layer {quoted(self.name)} ({quoted(self.class_name)[1:-1]})"


@dataclass(frozen=True)
class Chain:
    """The layers of a model in the order in which they are applied, nested models laid flat.

    Attributes:
        name: the model's name.
        layers: all of them, the input among them where the file has one.
        input_shape: the shape of one sample, None when the file does not say.
    """

    name: str
    layers: tuple[StoredLayer, ...]
    input_shape: Shape | None


def read_chain(model: Object) -> Chain:
    """Return the chain of layers that a model's description means.

    Raises:
        ModelFileRefused: it is no chain, has a custom class, too many layers, or is not laid out as Keras does.
    """
    name, layers = _read_model(model, (), None, 0)
    if not layers:
        raise ModelFileRefused("the model has no layers.")
    return Chain(name, tuple(layers), _input_shape(model, layers))


def _read_model(
    model: Object, group: tuple[str, ...], outermost: str | None, depth: int
) -> tuple[str, list[StoredLayer]]:
    kind = class_name_of(model, "the model")
    if kind not in MODELS:
        raise ModelFileRefused(f"the model is of the class {quoted(kind)}; only Sequential and Functional can be read.")
    if depth > MAX_NESTING:
        raise ModelFileRefused(f"models are nested more than {MAX_NESTING} deep.")
    config = model.get("config")
    if isinstance(config, list):  # the first versions of Keras 2 wrote a Sequential so
        config = {"layers": config}
    config = as_object(config, "the model's config")
    entries = [as_object(entry, "a layer") for entry in as_list(config.get("layers"), "the model's layers")]
    if len(entries) > MAX_LAYERS:
        raise ModelFileRefused(f"the model has {len(entries)} layers; at most {MAX_LAYERS} are read.")
    groups = _groups(entries, skip_input=kind == "Sequential")
    order = entries if kind == "Sequential" else follow(config, entries)
    layers: list[StoredLayer] = []
    for position, entry in enumerate(order):
        place = (*group, "layers", groups[id(entry)])
        name, class_name = layer_name_of(entry), class_name_of(entry, f"layer {quoted(layer_name_of(entry))}")
        if class_name in MODELS:
            layers += _read_model(entry, place, outermost or name, depth + 1)[1]
        elif class_name == INPUT and position:
            raise ModelFileRefused(f"layer {quoted(name)} is an input in the middle of the model.")
        else:
            arguments = as_object(entry.get("config"), f"the config of layer {quoted(name)}")
            layers.append(StoredLayer(class_name, name, arguments, place, outermost or name))
        if len(layers) > MAX_LAYERS:
            raise ModelFileRefused(f"the model has more than {MAX_LAYERS} layers.")
    return as_text(config.get("name", "model"), "the model's name"), layers


def _groups(entries: Sequence[Object], skip_input: bool) -> dict[int, str]:
    """Return the names by which Keras files the layers' weights: the class, numbered in order of appearance.

    A Sequential does not count its input among its layers.
    """
    seen: dict[str, int] = {}
    groups = {}
    for entry in entries:
        class_name = as_text(entry.get("class_name"), "a layer's class")
        base = snake_case(class_name)
        if class_name == INPUT and skip_input:
            groups[id(entry)] = base
            continue
        number = seen[base] = seen.get(base, -1) + 1
        groups[id(entry)] = f"{base}_{number}" if number else base
    return groups


def _input_shape(model: Object, stored: Sequence[StoredLayer]) -> Shape | None:
    """Return the shape of one sample: of the input layer, or declared by the first layer or by the model."""
    config = model.get("config")
    whole = config if isinstance(config, dict) else {}
    first = stored[0].config
    declared = first.get("batch_shape") or first.get("batch_input_shape") or whole.get("build_input_shape")
    if declared is None:
        return None
    axes = as_list(declared, "the model's input shape")[1:]
    if not axes or not all(isinstance(axis, int) and 0 < axis < 1 << 31 for axis in axes):
        raise ModelFileRefused(
            f"the model takes inputs of shape {quoted(str(declared))}. An exported model needs every axis but the "
            "first as a number: build it with Input((28, 28, 1)), for example, and save it again."
        )
    return tuple(int(axis) for axis in axes)
