"""What a model is to the rest of the server: names, datatypes, shapes, labels. Knows no runtime and no wire format."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

NUMPY_TYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""The protocol's datatypes and how numpy holds them. BYTES elements are `str` objects; BF16 ones their
16 bits, for numpy has no such type."""
_TYPED_BYTES = {"UINT8": 2, "UINT16": 3, "UINT32": 5, "UINT64": 10, "INT8": 10, "INT16": 10, "INT32": 10, "INT64": 10}
"""Of an element among typed contents, where that can be more than raw: protobuf's variable-length integers, in which
whatever is below zero takes 10 bytes."""
_ROOM_BYTES = 2**20
"""For everything in a request that is not data: names, shapes, parameters."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    datatype: str
    """A key of `NUMPY_TYPES`."""
    shape: tuple[int, ...]
    """With the batch axis, if the model has one; -1 is any size."""

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape fits."""
        return len(shape) == len(self.shape) and all(
            size == wanted or (wanted == -1 and size >= 0) for size, wanted in zip(shape, self.shape, strict=True)
        )

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The numpy dtype of the tensor's elements."""
        return NUMPY_TYPES[self.datatype]

    def max_bytes(self, rows: int) -> int | None:
        """The most that its contents can take on the wire, with so many rows where it has a batch axis.

        None where nothing limits it: strings, and axes of any size beside the batch.
        """
        sizes = (rows, *self.shape[1:]) if rows else self.shape
        if self.datatype == "BYTES" or -1 in sizes:
            return None
        return prod(sizes) * _TYPED_BYTES.get(self.datatype, self.dtype.itemsize)


@dataclass(frozen=True)
class ModelSpec:
    """The signature of one version of a model, and what its file says about itself."""

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    """Rows that one request may carry; 0 for a model without a batch axis."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The `metadata_props` of the ONNX file."""

    @property
    def batched(self) -> bool:
        """Whether the first axis of every input and output counts rows."""
        return self.max_batch_size > 0

    @property
    def has_open_axes(self) -> bool:
        """Whether requests may differ in more than their number of rows."""
        return any(-1 in tensor.shape[1:] for tensor in self.inputs)

    @cached_property
    def max_request_bytes(self) -> int | None:
        """The most that a request for this model can have; None where nothing in the model limits it."""
        sizes = [tensor.max_bytes(self.max_batch_size) for tensor in self.inputs]
        return None if None in sizes else sum(filter(None, sizes)) + _ROOM_BYTES

    @cached_property
    def input_index(self) -> dict[str, int]:
        """Position of each input by name."""
        return {tensor.name: index for index, tensor in enumerate(self.inputs)}

    @cached_property
    def output_index(self) -> dict[str, int]:
        """Position of each output by name."""
        return {tensor.name: index for index, tensor in enumerate(self.outputs)}
