"""The configuration message of a served model, as clients of the protocol read it."""

from conveyor_server.core.model import NUMPY_TYPES, ModelSpec, TensorSpec
from conveyor_server.engine.repository import ServedModel
from conveyor_server.generated import model_config_pb2 as pb

_DATA_TYPES = {name: pb.DataType.Value("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}") for name in NUMPY_TYPES}
_FORMATS = {"NHWC": pb.ModelInput.FORMAT_NHWC, "NCHW": pb.ModelInput.FORMAT_NCHW}


def describe(served: ServedModel) -> pb.ModelConfig:
    """How the model is served. `dims` leaves out the batch axis where `max_batch_size` is above 0."""
    spec = served.spec
    layout = _FORMATS.get(spec.metadata.get("conveyor.input.layout", ""), pb.ModelInput.FORMAT_NONE)
    config = pb.ModelConfig(
        name=spec.name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=spec.max_batch_size,
        default_model_filename="model.onnx",
    )
    config.version_policy.latest.num_versions = 1
    for tensor in spec.inputs:
        image = len(tensor.shape) - spec.batched == 3
        config.input.add(
            name=tensor.name,
            data_type=_DATA_TYPES[tensor.datatype],
            dims=_dims(tensor, spec),
            format=layout if image else pb.ModelInput.FORMAT_NONE,
        )
    for tensor in spec.outputs:
        config.output.add(name=tensor.name, data_type=_DATA_TYPES[tensor.datatype], dims=_dims(tensor, spec))
    if spec.batched:
        config.dynamic_batching.preferred_batch_size.append(served.model.run_size)
    for key, value in sorted(spec.metadata.items()):
        config.parameters[key].string_value = value
    return config


def _dims(tensor: TensorSpec, spec: ModelSpec) -> tuple[int, ...]:
    return tensor.shape[1:] if spec.batched else tensor.shape
