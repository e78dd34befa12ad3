"""Owns the way through a Functional model, from its one input to its one output; branches are refused by name."""

from collections.abc import Sequence
from typing import Any

from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.sources.keras_file.entries import INPUT, layer_name_of
from conveyor_exporter.sources.keras_file.json_text import Object, as_list, as_object, as_text, quoted


def follow(config: Object, entries: Sequence[Object]) -> list[Object]:
    """Return the layers of a Functional model from its one input to its one output."""
    by_name = {layer_name_of(entry): entry for entry in entries}
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
        name = layer_name_of(after[name])
    if len(order) != len(entries):
        unused = next(entry for entry in entries if not any(entry is other for other in order))
        raise ModelFileRefused(f"layer {quoted(layer_name_of(unused))} is not on the way from input to output.")
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
