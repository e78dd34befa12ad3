"""The configuration that a model is really served with, as clients of the protocol read it."""

from conveyor_server.core.model import ModelSpec, TensorSpec
from conveyor_server.engine.onnx_model import OnnxModel
from conveyor_server.engine.providers import CUDA
from conveyor_server.engine.signature import DATA_TYPES
from conveyor_server.engine.versions import MODEL_FILE
from conveyor_server.generated import model_config_pb2 as pb

_FORMATS = {"NHWC": pb.ModelInput.FORMAT_NHWC, "NCHW": pb.ModelInput.FORMAT_NCHW}


def effective_config(config: pb.ModelConfig, model: OnnxModel, runners: int) -> pb.ModelConfig:
    """The model's configuration with everything filled in that it left open.

    The model's own metadata (labels, input range and more) are among its parameters, unless it has such a one already.
    """
    spec, full = model.spec, pb.ModelConfig()
    full.CopyFrom(config)
    full.name, full.platform, full.backend = spec.name, "onnxruntime_onnx", "onnxruntime"
    full.max_batch_size = spec.max_batch_size
    full.default_model_filename = config.default_model_filename or MODEL_FILE
    if not full.HasField("version_policy"):
        full.version_policy.latest.num_versions = 1
    if not full.input:
        layout = _FORMATS.get(spec.metadata.get("conveyor.input.layout", ""), pb.ModelInput.FORMAT_NONE)
        for tensor in spec.inputs:
            dims = _dims(tensor, spec)
            image = layout if len(dims) == 3 else pb.ModelInput.FORMAT_NONE
            full.input.add(name=tensor.name, data_type=DATA_TYPES[tensor.datatype], dims=dims, format=image)
    if not full.output:
        for tensor in spec.outputs:
            full.output.add(name=tensor.name, data_type=DATA_TYPES[tensor.datatype], dims=_dims(tensor, spec))
    if spec.batched and not full.dynamic_batching.preferred_batch_size:
        full.dynamic_batching.preferred_batch_size.append(model.run_size)
    if not full.instance_group:
        kind = pb.ModelInstanceGroup.KIND_GPU if model.provider == CUDA else pb.ModelInstanceGroup.KIND_CPU
        full.instance_group.add(name=spec.name, kind=kind, count=runners)
    for key, value in sorted(spec.metadata.items()):
        if key not in full.parameters:
            full.parameters[key].string_value = value
    return full


def _dims(tensor: TensorSpec, spec: ModelSpec) -> tuple[int, ...]:
    """The shape without the batch axis."""
    return tensor.shape[1:] if spec.batched else tensor.shape
