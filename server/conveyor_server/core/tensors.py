"""Protocol tensors to numpy arrays. Owns every check of a request against a model's signature.

The first fault found is the one reported, in the order in which clients of the protocol expect it: names of outputs,
number and names of inputs, batch size, datatype, shape, size of the data (`tensor_contents.py`).
"""

from collections.abc import Sequence
from math import prod

from conveyor_server.core.errors import InvalidRequest
from conveyor_server.core.model import Array, ModelSpec, TensorSpec
from conveyor_server.core.tensor_contents import read_raw, read_typed
from conveyor_server.generated import inference_pb2 as pb


def decode_outputs(request: pb.ModelInferRequest, spec: ModelSpec) -> tuple[int, ...]:
    """Positions of the outputs that the request asks for, in its order; all of them when it names none.

    Raises:
        InvalidRequest: an output is unknown or asked for twice.
    """
    if not request.outputs:
        return tuple(range(len(spec.outputs)))
    wanted = []
    for output in request.outputs:
        index = spec.output_index.get(output.name)
        if index is None:
            raise InvalidRequest(
                f"unexpected inference output '{output.name}' for model '{spec.name}'. Its outputs are "
                f"{_names(spec.outputs)}."
            )
        if index in wanted:
            raise InvalidRequest(f"output '{output.name}' already exists in request for model '{spec.name}'")
        wanted.append(index)
    return tuple(wanted)


def decode_inputs(request: pb.ModelInferRequest, spec: ModelSpec) -> tuple[tuple[Array, ...], int]:
    """The request's tensors in the order of the model's inputs, and the number of rows (1 without a batch axis).

    Each array has the dtype of its input and the shape that the request states: `[rows, …]` where the model has a batch
    axis. Arrays of raw numeric contents are read-only views.

    Raises:
        InvalidRequest: anything about the tensors that does not fit the model, with the tensor's name, what was
            expected and what came.
    """
    tensors = _by_position(request, spec)
    rows = _batch_size([tensor for tensor, _ in tensors], spec)
    arrays = tuple(
        _decode(tensor, raw, wanted, spec) for (tensor, raw), wanted in zip(tensors, spec.inputs, strict=True)
    )
    return arrays, rows


_Input = tuple[pb.ModelInferRequest.InferInputTensor, bytes | None]


def _by_position(request: pb.ModelInferRequest, spec: ModelSpec) -> list[_Input]:
    """Each of the model's inputs with its raw contents, or None where the contents are typed."""
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise InvalidRequest(
            f"model '{spec.name}': raw_input_contents has {len(raws)} entries for {len(request.inputs)} inputs; "
            "expected one entry for each input, in the same order"
        )
    found: dict[int, _Input] = {}
    for number, tensor in enumerate(request.inputs):
        index = spec.input_index.get(tensor.name)
        if index is None:
            raise InvalidRequest(
                f"unexpected inference input '{tensor.name}' for model '{spec.name}'. Its inputs are "
                f"{_names(spec.inputs)}."
            )
        if index in found:
            raise InvalidRequest(f"input '{tensor.name}' already exists in request for model '{spec.name}'")
        if raws and tensor.HasField("contents"):
            raise InvalidRequest(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' for model "
                f"'{spec.name}'"
            )
        found[index] = (tensor, raws[number] if raws else None)
    if len(found) != len(spec.inputs):
        missing = [tensor.name for index, tensor in enumerate(spec.inputs) if index not in found]
        raise InvalidRequest(
            f"expected {len(spec.inputs)} inputs but got {len(found)} inputs for model '{spec.name}'. Got input(s) "
            f"{_listed([tensor.name for tensor, _ in found.values()])}, but missing required input(s) "
            f"{_listed(missing)}. Please provide all required input(s)."
        )
    return [found[index] for index in range(len(found))]


def _batch_size(tensors: Sequence[pb.ModelInferRequest.InferInputTensor], spec: ModelSpec) -> int:
    if not spec.batched:
        return 1
    for tensor in tensors:
        if not tensor.shape:
            raise InvalidRequest(
                f"input '{tensor.name}' has no shape but model requires batch dimension for '{spec.name}'"
            )
        if tensor.shape[0] != tensors[0].shape[0]:
            raise InvalidRequest(
                f"input '{tensor.name}' batch size does not match other inputs for '{spec.name}': "
                f"{tensor.shape[0]} and {tensors[0].shape[0]}"
            )
    rows = tensors[0].shape[0]
    # A tensor of the wrong rank is a wrong shape, not a wrong batch size: someone forgot the batch axis.
    if len(tensors[0].shape) == len(spec.inputs[0].shape) and not 1 <= rows <= spec.max_batch_size:
        raise InvalidRequest(
            f"inference request batch-size must be <= {spec.max_batch_size} for '{spec.name}' and at least 1, got "
            f"{rows}"
        )
    return rows


def _decode(
    tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None, wanted: TensorSpec, spec: ModelSpec
) -> Array:
    if tensor.datatype != wanted.datatype:
        raise InvalidRequest(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', but model '{spec.name}' expects "
            f"'{wanted.datatype}'"
        )
    shape = tuple(tensor.shape)
    if not wanted.admits(shape):
        hint = ""
        if spec.batched and wanted.admits((1, *shape)):
            hint = f" The first axis is the batch: send {_shape((1, *shape))} for one row."
        raise InvalidRequest(
            f"unexpected shape for input '{tensor.name}' for model '{spec.name}'. Expected {_shape(wanted.shape)}, got "
            f"{_shape(shape)}.{hint}"
        )
    owner = f"'{tensor.name}' for model '{spec.name}'"
    flat = (
        read_typed(tensor.contents, wanted.datatype, prod(shape), owner)
        if raw is None
        else read_raw(raw, wanted.datatype, prod(shape), owner)
    )
    array: Array = flat.reshape(shape)
    return array


def _listed(names: Sequence[str]) -> str:
    return f"[{','.join(map(repr, names))}]"


def _names(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"'{tensor.name}'" for tensor in tensors)


def _shape(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
