"""Reads a model's `config.pbtxt` (Triton's format) and refuses what is not done here, by the field's name.

Knows the message, not what is made of it (`serving.py`).
"""

from collections.abc import Iterator
from pathlib import Path

from google.protobuf import json_format, text_format
from google.protobuf.message import Message

from conveyor_server.core.errors import ModelRejected
from conveyor_server.engine.repository_files import RepositoryFiles, is_file_name
from conveyor_server.generated import model_config_pb2 as pb

CONFIG_FILE = "config.pbtxt"
_MAX_BYTES = 2**20

_REFUSED = {
    "sequence_batching": "sequences of requests are not kept together",
    "ensemble_scheduling": "models are not chained",
    "batch_input": "inputs are not made from a batch's composition",
    "batch_output": "outputs are not scattered by other sizes than the requests'",
    "model_operations": "libraries of custom operators are not loaded",
    "model_repository_agents": "repository agents are not run",
}
_IGNORED = ("cc_model_filenames", "metric_tags", "response_cache", "model_metrics", "runtime")
_IGNORED_HINTS = (
    ("optimization", "cuda"),
    ("optimization", "execution_accelerators"),
    ("optimization", "input_pinned_memory"),
    ("optimization", "output_pinned_memory"),
)
BACKENDS = {"backend": ("", "onnxruntime"), "platform": ("", "onnxruntime_onnx")}


def read_config(folder: Path, files: RepositoryFiles) -> pb.ModelConfig:
    """The configuration beside a model's versions; an empty one where there is none.

    Raises:
        ModelRejected: the file cannot be read, is outside the repository or too large, or is not such a configuration;
            the text names the line.
    """
    path = folder / CONFIG_FILE
    if not path.exists() and not path.is_symlink():
        return pb.ModelConfig()
    try:
        return parse_config(files.read(path, _MAX_BYTES).decode(), CONFIG_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelRejected(f"{CONFIG_FILE} cannot be read: {error}") from error


def parse_config(text: str, source: str) -> pb.ModelConfig:
    """A configuration in protobuf's text form, or in JSON where it begins with a brace.

    Raises:
        ModelRejected: it is neither; the text names the line.
    """
    try:
        if text.lstrip().startswith("{"):
            return json_format.Parse(text, pb.ModelConfig())
        return text_format.Parse(text, pb.ModelConfig())
    except (text_format.ParseError, json_format.ParseError) as error:
        raise ModelRejected(f"{source} is not a model configuration: {error}") from error


def check_config(config: pb.ModelConfig, name: str) -> list[str]:
    """What is ignored in this configuration, one text each.

    Raises:
        ModelRejected: it asks for something that is not done here.
    """
    if config.name not in ("", name):
        raise ModelRejected(f"name: the configuration is of '{config.name}', the model's folder is '{name}'.")
    for field, known in BACKENDS.items():
        if (value := getattr(config, field)) not in known:
            raise ModelRejected(f"{field}: '{value}' is not served here, only '{known[1]}'.")
    for field, reason in _REFUSED.items():
        if _is_set(config, field):
            raise ModelRejected(f"{field}: {reason}.")
    if config.model_transaction_policy.decoupled:
        raise ModelRejected("model_transaction_policy.decoupled: every request gets one answer here.")
    if config.default_model_filename and not is_file_name(config.default_model_filename):
        raise ModelRejected(f"default_model_filename: '{config.default_model_filename}' is not the name of a file.")
    _check_tensors(config)
    return list(_ignored(config))


def _check_tensors(config: pb.ModelConfig) -> None:
    tensors: list[pb.ModelInput | pb.ModelOutput] = [*config.input, *config.output]
    for tensor in tensors:
        for field in ("is_shape_tensor", "allow_ragged_batch", "optional", "is_non_linear_format_io"):
            if getattr(tensor, field, False):
                raise ModelRejected(f"'{tensor.name}': {field} is not done here.")
        if not tensor.name:
            raise ModelRejected("an input or output has no name.")
        if list(tensor.reshape.shape).count(-1) > 1:
            raise ModelRejected(f"'{tensor.name}': reshape.shape can leave one axis open (-1), not more.")


def _ignored(config: pb.ModelConfig) -> Iterator[str]:
    for field in _IGNORED:
        if _is_set(config, field):
            yield f"{field} is ignored."
    for field, hint in _IGNORED_HINTS:
        if _is_set(getattr(config, field), hint):
            yield f"{field}.{hint} is a hint that is ignored."
    for group in config.instance_group:
        for field in ("rate_limiter", "secondary_devices", "profile", "host_policy", "passive"):
            if _is_set(group, field):
                yield f"instance_group.{field} is ignored."
    if config.dynamic_batching.preserve_ordering:
        yield "dynamic_batching.preserve_ordering is ignored: answers are sent as soon as they are there."


def _is_set(message: Message, field: str) -> bool:
    return any(found.name == field for found, _ in message.ListFields())
