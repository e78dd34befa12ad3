"""A model's signature as it is served: what the file says, narrowed by what the configuration says. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from conveyor_server.core.errors import ModelRejected
from conveyor_server.core.model import NUMPY_TYPES, ModelSpec, TensorSpec
from conveyor_server.generated import model_config_pb2 as pb

Shape = tuple[int, ...]

DATA_TYPES: Mapping[str, pb.DataType] = {
    name: getattr(pb, "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}") for name in NUMPY_TYPES
}
"""The configuration's name of each datatype."""


@dataclass(frozen=True)
class Signature:
    """The tensors on the wire, and where the model's own shapes differ from them."""

    spec: ModelSpec
    inner_inputs: tuple[Shape | None, ...]
    """The shape that the model takes each input in, with the batch axis; None where it is the one on the wire."""
    reshaped_outputs: tuple[bool, ...]
    """Which outputs have another shape in the model than on the wire."""


def served_signature(model: ModelSpec, config: pb.ModelConfig) -> Signature:
    """The signature to serve a model with.

    Args:
        model: the file's own signature; `max_batch_size` is the server's default, or 0 if the file has no batch axis.
        config: the model's configuration; what it leaves out comes from the file.

    Raises:
        ModelRejected: the two contradict each other; the text names the field.
    """
    max_batch_size = _max_batch_size(model, config)
    batch: Shape = (-1,) if max_batch_size else ()
    inputs = [_configured(tensor, model.inputs, "input", batch) for tensor in config.input]
    missing = {tensor.name for tensor in model.inputs} - {wire.name for wire, _ in inputs}
    if inputs and missing:
        raise ModelRejected(f"input: the configuration lacks {', '.join(sorted(missing))}, which the model needs.")
    outputs = [_configured(tensor, model.outputs, "output", batch) for tensor in config.output]
    spec = ModelSpec(
        model.name,
        model.version,
        tuple(wire for wire, _ in inputs) or model.inputs,
        tuple(wire for wire, _ in outputs) or model.outputs,
        max_batch_size,
        model.metadata,
    )
    inner = {wire.name: shape for wire, shape in inputs if shape != wire.shape}
    reshaped = {wire.name for wire, shape in outputs if shape != wire.shape}
    return Signature(
        spec,
        tuple(inner.get(tensor.name) for tensor in spec.inputs),
        tuple(tensor.name in reshaped for tensor in spec.outputs),
    )


def output_labels(spec: ModelSpec, files: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The class names of each output: from its label file, else from the model's own metadata.

    A binary model's single output is the probability of its second label.
    """
    try:
        own = json.loads(spec.metadata.get("conveyor.labels", "[]"))
    except (ValueError, RecursionError):  # no JSON, or JSON of a hostile depth
        own = []
    labels = dict(files)
    for output in spec.outputs:
        classes = output.shape[-1] if output.shape else 0
        if output.name not in labels and isinstance(own, list):
            if classes == len(own):
                labels[output.name] = [str(label) for label in own]
            elif classes == 1 and len(own) == 2:
                labels[output.name] = [str(own[1])]
    return labels


def _max_batch_size(model: ModelSpec, config: pb.ModelConfig) -> int:
    if config.max_batch_size < 0:
        raise ModelRejected(f"max_batch_size: {config.max_batch_size} is below 0.")
    if config.max_batch_size > 0 and not model.batched:
        raise ModelRejected(
            f"max_batch_size: {config.max_batch_size} needs a model whose inputs and outputs all leave their first "
            "axis open; this one does not. Set it to 0, and let dims be the whole shapes."
        )
    if config.max_batch_size == 0 and not config.input and not config.output:
        return model.max_batch_size
    return config.max_batch_size


def _configured(
    tensor: pb.ModelInput | pb.ModelOutput, model: Sequence[TensorSpec], kind: str, batch: Shape
) -> tuple[TensorSpec, Shape]:
    """A configured tensor as it is on the wire, and its shape in the model."""
    own = next((known for known in model if known.name == tensor.name), None)
    if own is None:
        names = ", ".join(known.name for known in model)
        raise ModelRejected(f"{kind}: the model has no '{tensor.name}'; it has {names}.")
    if tensor.data_type != DATA_TYPES[own.datatype]:
        raise ModelRejected(
            f"{kind} '{tensor.name}': data_type is {pb.DataType.Name(tensor.data_type)}, the model has "
            f"{pb.DataType.Name(DATA_TYPES[own.datatype])}."
        )
    dims = tuple(tensor.dims)
    inner = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else dims
    if -1 not in (*dims, *inner) and prod(dims) != prod(inner):
        raise ModelRejected(f"{kind} '{tensor.name}': reshape from {list(dims)} to {list(inner)} changes the size.")
    fits = len((*batch, *inner)) == len(own.shape) and all(
        size in (asked, -1) for asked, size in zip((*batch, *inner), own.shape, strict=True)
    )
    if not fits:
        raise ModelRejected(
            f"{kind} '{tensor.name}': dims {list(inner)}{' behind the batch axis' if batch else ''} do not fit the "
            f"model's shape {list(own.shape)}."
        )
    return TensorSpec(own.name, own.datatype, (*batch, *dims)), (*batch, *inner)
