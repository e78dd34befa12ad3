"""Owns the way from a model's description to an ordered chain of layers; Sequential, or Functional without branches.

Knows nothing of what a layer computes and nothing of weights.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.keras_file.json_text import Object, as_list, as_object, as_text, quoted
from conveyor_exporter.layers.base import snake_case

MAX_LAYERS = 500
MAX_NESTING = 4
INPUT = "InputLayer"
MODELS = ("Sequential", "Functional", "Model")  # the last is what Keras 2 called a Functional model at first

_KERAS_MODULE = re.compile(r"keras(\.[a-z0-9_]+)*")


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
    kind = _class_name(model, "the model")
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
    order = entries if kind == "Sequential" else _follow(config, entries)
    layers: list[StoredLayer] = []
    for position, entry in enumerate(order):
        place = (*group, "layers", groups[id(entry)])
        name, class_name = _layer_name(entry), _class_name(entry, f"layer {quoted(_layer_name(entry))}")
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


def _class_name(entry: Object, title: str) -> str:
    """Return the class of a model or layer; refuse one that is not Keras' own, whatever it is called."""
    class_name = as_text(entry.get("class_name"), f"the class of {title}")
    module, registered = entry.get("module"), entry.get("registered_name")
    own = module is None or (isinstance(module, str) and _KERAS_MODULE.fullmatch(module))
    if not own or registered not in (None, class_name):
        raise ModelFileRefused(
            f"{title} is of a custom class ({quoted(module)}, {quoted(registered or class_name)}), whose code is not "
            "in the file and would not be run. Only Keras' own layers can be read."
        )
    return class_name


def _layer_name(entry: Object) -> str:
    config = entry.get("config")
    return as_text(
        entry.get("name") or (config.get("name") if isinstance(config, dict) else None) or entry.get("class_name"),
        "a layer's name",
    )


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


def _follow(config: Object, entries: Sequence[Object]) -> list[Object]:
    """Return the layers of a Functional model from its one input to its one output."""
    by_name = {_layer_name(entry): entry for entry in entries}
    if len(by_name) != len(entries):
        raise ModelFileRefused("two layers of the model have the same name.")
    start, end = (_single_end(config.get(key), key) for key in ("input_layers", "output_layers"))
    after: dict[str, Object] = {}
    for name, entry in by_name.items():
        for source in _sources(entry, name):
            if source in after:
                raise ModelFileRefused(
                    f"the output of layer {quoted(source)} goes to more than one layer; only chains of layers can be "
                    "read. Export a branching model from its code."
                )
            after[source] = entry
    if start not in by_name or by_name[start].get("class_name") != INPUT:
        raise ModelFileRefused(f"the model's input {quoted(start)} is not among its layers.")
    order, name = [by_name[start]], start
    while name != end:
        if name not in after or len(order) > len(entries):
            raise ModelFileRefused(f"no chain of layers leads from {quoted(start)} to {quoted(end)}.")
        order.append(after[name])
        name = _layer_name(after[name])
    if len(order) != len(entries):
        unused = next(entry for entry in entries if not any(entry is other for other in order))
        raise ModelFileRefused(f"layer {quoted(_layer_name(unused))} is not on the way from input to output.")
    return order


def _single_end(value: Any, key: str) -> str:
    """Return the name in `["conv2d", 0, 0]` or `[["conv2d", 0, 0]]`."""
    ends = as_list(value, f"the model's {key}")
    ends = ends if ends and isinstance(ends[0], list) else [ends]
    if len(ends) != 1:
        raise ModelFileRefused(f"the model has {len(ends)} {key}; only chains with one input and one output are read.")
    return _tensor_source(ends[0], f"the model's {key}")


def _sources(entry: Object, name: str) -> list[str]:
    """Return the names of the layers whose outputs go into this one: one, or none for an input."""
    nodes = as_list(entry.get("inbound_nodes"), f"the connections of layer {quoted(name)}")
    if entry.get("class_name") == INPUT and not nodes:
        return []
    if len(nodes) != 1:
        raise ModelFileRefused(f"layer {quoted(name)} is used {len(nodes)} times; only chains of layers can be read.")
    if isinstance(nodes[0], list):  # Keras 2: [[name, node, tensor, {arguments of the call}], …]
        tensors = [as_list(tensor, f"an input of layer {quoted(name)}") for tensor in nodes[0]]
        call = [tensor[3] for tensor in tensors if len(tensor) > 3]
    else:
        node = as_object(nodes[0], f"the connections of layer {quoted(name)}")
        tensors = [_history(tensor, name) for tensor in as_list(node.get("args"), f"the inputs of {quoted(name)}")]
        call = [node.get("kwargs") or {}]
    if len(tensors) != 1:
        raise ModelFileRefused(f"layer {quoted(name)} has {len(tensors)} inputs; only chains of layers can be read.")
    for arguments in call:
        _check_call(as_object(arguments, f"the call of layer {quoted(name)}"), name)
    return [_tensor_source(tensors[0], f"the input of layer {quoted(name)}")]


def _history(tensor: Any, name: str) -> list[Any]:
    if isinstance(tensor, list):
        raise ModelFileRefused(f"layer {quoted(name)} takes several inputs; only chains of layers can be read.")
    config = as_object(as_object(tensor, f"an input of layer {quoted(name)}").get("config"), "a tensor's config")
    return as_list(config.get("keras_history"), f"the input of layer {quoted(name)}")


def _tensor_source(value: list[Any], title: str) -> str:
    if len(value) < 3 or value[2] != 0:
        raise ModelFileRefused(f"{title} must be [layer, 0, 0], got {quoted(str(value))}.")
    return as_text(value[0], title)


def _check_call(arguments: Object, name: str) -> None:
    for key, value in arguments.items():
        if value not in (None, False):
            raise ModelFileRefused(
                f"layer {quoted(name)} is called with {quoted(key)}={quoted(value)}, which changes what it computes."
            )


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
