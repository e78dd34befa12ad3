"""What a server says of itself and of its models, as plain values. Knows the messages, not how they came."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from conveyor_server.core.model import TensorSpec
from conveyor_server.generated import inference_pb2 as pb


@dataclass(frozen=True)
class ServerDescription:
    """What the server says of itself."""

    name: str
    version: str
    extensions: tuple[str, ...]
    """What it can do beyond the core of the protocol, and which execution providers it uses."""

    @classmethod
    def read(cls, message: pb.ServerMetadataResponse) -> Self:
        """From the protocol's message."""
        return cls(message.name, message.version, tuple(message.extensions))


@dataclass(frozen=True)
class ModelState:
    """One version of a model in the server's repository."""

    name: str
    version: str
    state: str
    """READY, LOADING or UNAVAILABLE."""
    reason: str
    """Why it does not answer; empty if it does."""

    @classmethod
    def read(cls, message: pb.RepositoryIndexResponse.ModelIndex) -> Self:
        """From the protocol's message."""
        return cls(message.name, message.version, message.state, message.reason)


@dataclass(frozen=True)
class ModelStatistics:
    """What one version of a model has done since it was loaded. Times are seconds, all requests together."""

    name: str
    version: str
    requests: int
    failures: int
    rows: int
    runs: int
    request_seconds: float
    """Of answered requests, from their arrival to their answer."""
    queue_seconds: float
    compute_seconds: float

    @classmethod
    def read(cls, message: pb.ModelStatistics) -> Self:
        """From the protocol's message, which counts nanoseconds."""
        spent = message.inference_stats
        compute = spent.compute_input.ns + spent.compute_infer.ns + spent.compute_output.ns
        return cls(
            message.name,
            message.version,
            requests=spent.success.count,
            failures=spent.fail.count,
            rows=message.inference_count,
            runs=message.execution_count,
            request_seconds=spent.success.ns / 1e9,
            queue_seconds=spent.queue.ns / 1e9,
            compute_seconds=compute / 1e9,
        )


@dataclass(frozen=True)
class ModelDescription:
    """What the server says of a model."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: Mapping[str, str]
    """The model's metadata; values of the exporter's keys (`conveyor.labels`, …) are JSON or plain text."""
    max_batch_size: int = 0
    """Images that one request may carry; 0 for a model without a batch axis."""

    @classmethod
    def read(cls, metadata: pb.ModelMetadataResponse, config: pb.ModelConfigResponse, version: str) -> Self:
        """From the protocol's messages; `version` is the one that was asked for, empty for the server's choice."""
        return cls(
            name=metadata.name,
            version=version or max(metadata.versions, key=lambda version: (len(version), version), default=""),
            inputs=tuple(map(_spec, metadata.inputs)),
            outputs=tuple(map(_spec, metadata.outputs)),
            parameters={name: value.string_value for name, value in config.config.parameters.items()},
            max_batch_size=config.config.max_batch_size,
        )

    @property
    def labels(self) -> list[str]:
        """Class names in the order of the outputs; empty when the model carries none."""
        labels: list[str] = json.loads(self.parameters.get("conveyor.labels", "[]"))
        return labels

    @property
    def threshold(self) -> float:
        """The probability above which a binary model says yes."""
        return float(self.parameters.get("conveyor.threshold", "0.5"))

    @property
    def input_range(self) -> tuple[float, float]:
        """The values that black and white have in the model's input; 0 and 1 when the model does not say."""
        low, high = json.loads(self.parameters.get("conveyor.input.range", "[0.0, 1.0]"))
        return float(low), float(high)


def _spec(tensor: pb.ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape))
