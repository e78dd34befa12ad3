"""Owns the order of what a model holds, so that the same graph has the same bytes whoever made it. Knows onnx only."""

import onnx

PRODUCER = "conveyor"
GRAPH_NAME = "conveyor"


def in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """Tidy up a model, in place, and return it: stable order, our name, the shapes of all values, no notes."""
    graph = model.graph
    model.producer_name, graph.name = PRODUCER, GRAPH_NAME
    for field in ("producer_version", "doc_string", "domain"):
        model.ClearField(field)
    graph.ClearField("doc_string")
    del graph.metadata_props[:], graph.value_info[:]
    for node in graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
        node.attribute.sort(key=lambda attribute: attribute.name)
    graph.initializer.sort(key=lambda tensor: tensor.name)
    shapes = onnx.shape_inference.infer_shapes(model).graph.value_info
    graph.value_info.extend(sorted(shapes, key=lambda value: value.name))
    return model
