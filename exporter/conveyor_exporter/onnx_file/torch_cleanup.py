"""Owns the cleaning of a graph that torch wrote: names from the layers, no traces of the machine, stable order.

Knows onnx only; neither torch nor our layers.
"""

import ast
from collections.abc import Callable, Iterable

import onnx

from conveyor_exporter.onnx_file.order import in_order

_SCOPES = "pkg.torch.onnx.name_scopes"  # torch notes there, for each node, the modules that it came from


def clean(model: onnx.ModelProto) -> None:
    """Rename nodes, values and constants after their layers, and drop everything that only describes the making."""
    graph = model.graph
    names = _node_names(graph.node)
    renamed = _tensor_names(graph, names)
    for node, name in zip(graph.node, names, strict=True):
        node.name, node.doc_string = name, ""
        del node.metadata_props[:]
        node.attribute.sort(key=lambda attribute: attribute.name)
        node.input[:] = [renamed.get(tensor, tensor) for tensor in node.input]
        node.output[:] = [renamed.get(tensor, tensor) for tensor in node.output]
    described: list[onnx.TensorProto | onnx.ValueInfoProto] = [*graph.initializer, *graph.input]
    for value in (*described, *graph.output):
        value.name, value.doc_string = renamed.get(value.name, value.name), ""
        del value.metadata_props[:]
    del model.metadata_props[:]
    in_order(model)


def _node_names(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Return a name for each node: the first of a layer has the layer's name, the others `layer/operator`."""
    taken: set[str] = set()
    names = []
    for node in nodes:
        layer, operator = _layer(node), node.op_type.lower()
        wanted = layer if layer and layer not in taken else "/".join(filter(None, (layer, operator)))
        names.append(_free(wanted, taken.__contains__))
        taken.add(names[-1])
    return names


def _layer(node: onnx.NodeProto) -> str:
    """Return the path of the module that a node came from; empty when torch made the node up."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    path = ast.literal_eval(scopes)[:-1]  # the last one is the operation
    return str(path[-1]).replace(".", "/") if path else ""


def _tensor_names(graph: onnx.GraphProto, node_names: list[str]) -> dict[str, str]:
    """Return new names: a node's output is called like the node, a constant made by torch `node.argument`."""
    fixed = {value.name for value in (*graph.input, *graph.output)}
    made = {tensor.name for tensor in graph.initializer if "." not in tensor.name}
    renamed: dict[str, str] = {}
    for node, name in zip(graph.node, node_names, strict=True):
        for position, tensor in enumerate(node.input):
            if tensor in made and tensor not in renamed:
                renamed[tensor] = f"{name}.{_argument(node, position)}"
        for position, tensor in enumerate(node.output):
            if tensor not in fixed:
                renamed[tensor] = f"{name}:{position}" if position or name in fixed else name
    return renamed


def _argument(node: onnx.NodeProto, position: int) -> str:
    """Return what ONNX calls this input of the node, such as `shape`."""
    arguments = onnx.defs.get_schema(node.op_type, domain=node.domain).inputs
    return str(arguments[min(position, len(arguments) - 1)].name)


def _free(wanted: str, is_taken: Callable[[str], bool]) -> str:
    name, number = wanted, 0
    while is_taken(name):
        number += 1
        name = f"{wanted}_{number}"
    return name
