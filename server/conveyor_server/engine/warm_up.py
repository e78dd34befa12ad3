"""The requests that a configuration wants run before its model counts as ready."""

from math import prod
from pathlib import Path

import numpy as np

from conveyor_server.core.byte_strings import decode_byte_strings
from conveyor_server.core.errors import InvalidRequest, ModelRejected
from conveyor_server.core.model import Array, ModelSpec, TensorSpec
from conveyor_server.engine.onnx_model import OnnxModel
from conveyor_server.engine.repository_files import RepositoryFiles, is_file_name
from conveyor_server.generated import model_config_pb2 as pb

WARM_UP_FOLDER = "warmup"
_MAX_BYTES = 256 * 2**20
"""Of one input: a configuration of a few bytes could ask for any amount of memory."""
_MAX_COUNT = 1000


def warm_up(model: OnnxModel, config: pb.ModelConfig, folder: Path, files: RepositoryFiles) -> None:
    """Runs every warm-up request of the configuration, as often as it says.

    Raises:
        ModelRejected: a request does not fit the model or asks for too much, its file is missing or outside the
            repository, or the model fails on it.
    """
    for request in config.model_warmup:
        if request.count > _MAX_COUNT:
            raise ModelRejected(
                f"model_warmup '{request.name}': count: {request.count} is too much; at most {_MAX_COUNT}."
            )
        inputs = [_input(request, tensor, model.spec, folder, files) for tensor in model.spec.inputs]
        try:
            for _ in range(max(1, request.count)):
                model.run(inputs)
        except Exception as error:  # whatever the runtime raises, the model is not fit to serve
            raise ModelRejected(f"model_warmup '{request.name}': the model fails on it: {error}") from error


def _input(request: pb.ModelWarmup, tensor: TensorSpec, spec: ModelSpec, folder: Path, files: RepositoryFiles) -> Array:
    where = f"model_warmup '{request.name}': input '{tensor.name}'"
    if tensor.name not in request.inputs:
        raise ModelRejected(f"{where} is missing.")
    wanted = request.inputs[tensor.name]
    batch = (max(1, request.batch_size),) if spec.batched else ()
    shape = (*batch, *wanted.dims)
    if not tensor.admits(shape):
        raise ModelRejected(f"{where} has the shape {list(shape)}, the model takes {list(tensor.shape)}.")
    if request.batch_size > spec.max_batch_size > 0:
        raise ModelRejected(f"{where} has {request.batch_size} rows; the model takes {spec.max_batch_size}.")
    if (size := prod(shape) * tensor.dtype.itemsize) > _MAX_BYTES:
        raise ModelRejected(f"{where} would have {size} bytes; the limit is {_MAX_BYTES}.")
    if wanted.WhichOneof("input_data_type") == "input_data_file":
        return _read(wanted.input_data_file, tensor, shape, folder, where, files)
    if tensor.datatype == "BYTES":
        return np.full(shape, "", np.object_)
    if wanted.WhichOneof("input_data_type") == "random_data":
        return np.random.default_rng(0).random(shape).astype(tensor.dtype)
    return np.zeros(shape, tensor.dtype)


def _read(
    name: str, tensor: TensorSpec, shape: tuple[int, ...], folder: Path, where: str, files: RepositoryFiles
) -> Array:
    """Raw contents of a file in the model's `warmup` folder; one row is repeated for a batch."""
    if not is_file_name(name):
        raise ModelRejected(f"{where}: '{name}' is not the name of a file in '{WARM_UP_FOLDER}'.")
    try:
        raw = files.read(folder / WARM_UP_FOLDER / name, _MAX_BYTES)
        if tensor.datatype == "BYTES":
            flat: Array = decode_byte_strings(raw, f"input '{tensor.name}'", limit=prod(shape))
        else:
            flat = np.frombuffer(raw, tensor.dtype)
    except (OSError, ValueError, InvalidRequest) as error:
        raise ModelRejected(f"{where}: '{name}' cannot be read: {error}") from error
    if flat.size == 0 or prod(shape) % flat.size:
        raise ModelRejected(f"{where}: '{name}' has {flat.size} elements, the shape {list(shape)} wants {prod(shape)}.")
    array: Array = np.resize(flat, shape)
    return array
