"""One loaded model on ONNX Runtime, tuned for this machine. The only module that imports onnxruntime."""

import ctypes
import os
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from conveyor_server.core.errors import ModelRejected, StartError
from conveyor_server.core.model import NUMPY_TYPES, Array, ModelSpec, TensorSpec
from conveyor_server.engine.batch_buckets import bucket_sizes, pad_to_bucket
from conveyor_server.engine.cpu_budget import cpu_budget
from conveyor_server.engine.model_file import ModelFile
from conveyor_server.engine.providers import CPU, choose_provider
from conveyor_server.engine.runtime_options import RuntimeOptions
from conveyor_server.engine.signature import served_signature
from conveyor_server.engine.tuning import RUN_SIZES, RunSize, tune_run_size
from conveyor_server.generated import model_config_pb2 as pb

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; the Linux wheels send telemetry by default
try:
    import onnxruntime as ort
except ModuleNotFoundError as error:
    raise StartError(
        "onnxruntime is not installed. Install 'conveyor-server[cpu]' or, for CUDA, 'conveyor-server[gpu]'."
    ) from error

IN_PLACE_SECONDS = 0.0008
"""Full runs shorter than this stay in the event loop's thread: waking another thread would cost as much again, and no
turn of the loop takes longer than a millisecond with what belongs to the run."""
MORE_THREADS_PAY = 1.2
"""How much faster a full run must be with all threads than with one, to take them from the other models."""
UNTUNED_ROWS, UNTUNED_SECONDS = 16, 0.01
"""What is supposed of a full run of a model that fails on made-up inputs, which are zeros of the least shape."""

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_FATAL_ONLY = 4  # onnxruntime's log level; what it would log comes as an exception as well


class OnnxModel:
    """A session, its signature, and the run size that this machine likes best.

    Args:
        file: an accepted model file.
        name: the model's name in the repository.
        version: its version.
        options: how to run it.
        config: the model's configuration; what it leaves out comes from the file.

    Raises:
        ModelRejected: the runtime refuses the model, or its signature cannot be served.
        ProviderUnavailable: CUDA was asked for and cannot be used.
    """

    def __init__(
        self, file: ModelFile, name: str, version: int, options: RuntimeOptions, config: pb.ModelConfig | None = None
    ) -> None:
        self.sha256 = file.sha256
        self.notice: str | None = None
        """What the operator should know about the provider, if anything."""
        self._options = options
        self.threads = options.threads or 1
        self._session = self._open(file, self.threads)
        self.provider: str = self._session.get_providers()[0]
        own = _own_signature(self._session, name, version, options.max_batch_size, file.metadata)
        self._signature = served_signature(own, config or pb.ModelConfig())
        self.spec = self._signature.spec
        self._output_names = [tensor.name for tensor in self.spec.outputs]
        self._has_bf16 = _has_bf16(self.spec)
        self._buckets: tuple[int, ...] = ()
        self._runs_on_zeros = True
        self._tuned = self._tune()
        if self.provider != CPU and self.spec.batched and self._runs_on_zeros:
            self._buckets = bucket_sizes(self.run_size)
            for rows in self._buckets:
                self._run_zeros(rows)  # a new shape costs a search on the GPU; no request shall wait for it
        if (
            options.threads == 0
            and self.provider == CPU
            and not self.in_place
            and self._runs_on_zeros
            and (cpus := options.cpus or cpu_budget()) > 1
        ):
            self._try_threads(file, cpus)
        if self.provider == CPU and options.arena and self._runs_on_zeros:
            self._give_memory_back()

    @property
    def run_size(self) -> int:
        """Rows of a full run."""
        return self._tuned.rows

    @property
    def rows_per_second(self) -> float:
        """Rows a second in full runs, measured at load."""
        return self._tuned.rows_per_second

    @property
    def seconds_per_run(self) -> float:
        """Duration of a full run, measured at load."""
        return self._tuned.seconds

    @property
    def in_place(self) -> bool:
        """Whether full runs are short enough to stay in the event loop's thread."""
        return self.provider == CPU and self._tuned.seconds <= IN_PLACE_SECONDS

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for these inputs, arrays in the order of the signature. Blocks; may be called from any thread."""
        if not self._buckets:
            return self._run(inputs)
        rows = len(inputs[0])
        return [output[:rows] for output in self._run(pad_to_bucket(inputs, self._buckets))]

    def _run(self, inputs: Sequence[Array], options: "ort.RunOptions | None" = None) -> list[Array]:
        feed = {
            tensor.name: array if shape is None else _reshape(array, shape, self.spec.batched)
            for tensor, array, shape in zip(self.spec.inputs, inputs, self._signature.inner_inputs, strict=True)
        }
        outputs: list[Array] = (
            self._run_values(feed, options) if self._has_bf16 else self._session.run(self._output_names, feed, options)
        )
        return [
            _reshape(output, tensor.shape, self.spec.batched) if reshaped else output
            for output, tensor, reshaped in zip(
                outputs, self.spec.outputs, self._signature.reshaped_outputs, strict=True
            )
        ]

    def _run_values(self, feed: Mapping[str, Array], options: "ort.RunOptions | None") -> list[Array]:
        """As the session's `run`, which takes and gives only what numpy has a type for; BF16 goes as its 16 bits."""
        values = {}
        for tensor in self.spec.inputs:
            array = np.ascontiguousarray(feed[tensor.name])
            values[tensor.name] = (
                ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, onnx.TensorProto.BFLOAT16)
                if tensor.datatype == "BF16"
                else ort.OrtValue.ortvalue_from_numpy(array)
            )
        return [
            # The value's memory is freed with it, hence the copy.
            np.frombuffer(ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()), np.uint16).reshape(
                value.shape()
            )
            if tensor.datatype == "BF16"
            else value.numpy()
            for tensor, value in zip(
                self.spec.outputs, self._session.run_with_ort_values(self._output_names, values, options), strict=True
            )
        ]

    def _open(self, file: ModelFile, threads: int) -> "ort.InferenceSession":
        options = self._options
        choice = choose_provider(options.provider, ort.get_available_providers())
        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = threads
        session_options.inter_op_num_threads = max(1, options.inter_threads)
        session_options.execution_mode = (
            ort.ExecutionMode.ORT_PARALLEL if options.inter_threads > 1 else ort.ExecutionMode.ORT_SEQUENTIAL
        )
        session_options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, options.graph.value)
        session_options.enable_cpu_mem_arena = options.arena
        session_options.log_severity_level = _FATAL_ONLY
        # A spinning thread burns the quota that the next request needs.
        session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = ort.InferenceSession(
                file.content,
                session_options,
                providers=list(choice.names),
                provider_options=choice.options(options.device, options.gpu_memory_bytes),
            )
        except Exception as error:  # onnxruntime raises a family of its own without a common base
            raise ModelRejected(f"onnxruntime {ort.__version__} refuses it: {error}") from error
        self.notice = choice.accept(session.get_providers())
        return session

    def _tune(self) -> RunSize:
        sizes: list[int] = [rows for rows in RUN_SIZES if rows <= self.spec.max_batch_size]
        if not self.spec.batched:
            sizes = [1]
        elif self._options.run_size:
            sizes = [min(self._options.run_size, self.spec.max_batch_size)]
        try:
            return tune_run_size(self._run_zeros, self._clock, sizes)
        except Exception as error:  # onnxruntime raises a family of its own without a common base
            self.notice = f"It fails on made-up inputs, so its run size could not be measured: {error}"
            self._runs_on_zeros = False
            return RunSize(min(UNTUNED_ROWS, max(1, self.spec.max_batch_size)), UNTUNED_SECONDS)

    @property
    def _clock(self) -> Callable[[], float]:
        """What times a run: where it stays in one thread, what that thread works, whatever else the machine does."""
        return time.thread_time if self.provider == CPU and self.threads == 1 else time.perf_counter

    def _try_threads(self, file: ModelFile, threads: int) -> None:
        """Opens the model again with more threads, and goes back unless they pay."""
        alone, single = self._session, self._tuned
        self._session, self.threads = self._open(file, threads), threads
        self._tuned = self._tune()
        if self._tuned.rows_per_second < single.rows_per_second * MORE_THREADS_PAY:
            self._session, self._tuned, self.threads = alone, single, 1

    def _give_memory_back(self) -> None:
        """Lets go of what only the larger runs needed that were tried; else the arena keeps it, and glibc after it."""
        shrinking = ort.RunOptions()
        shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._run(self._zeros(1), shrinking)
        if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
            trim(0)
        self._run_zeros(self.run_size)

    def _run_zeros(self, rows: int) -> None:
        self.run(self._zeros(rows))

    def _zeros(self, rows: int) -> list[Array]:
        return [_zeros(tensor, rows, self.spec.batched) for tensor in self.spec.inputs]


def _has_bf16(spec: ModelSpec) -> bool:
    datatypes = {tensor.datatype for tensor in (*spec.inputs, *spec.outputs)}
    if {"BF16", "BYTES"} <= datatypes:
        raise ModelRejected(
            "it has both BF16 and string tensors; onnxruntime's Python interface takes one or the other."
        )
    return "BF16" in datatypes


def _zeros(tensor: TensorSpec, rows: int, batched: bool) -> Array:
    """A tensor of zeros (as strings for BYTES); axes of any size get size 1, but for the batch."""
    shape = tuple(1 if size == -1 else size for size in tensor.shape)
    shape = (rows, *shape[1:]) if batched else shape
    return np.full(shape, "0", np.object_) if tensor.datatype == "BYTES" else np.zeros(shape, tensor.dtype)


def _reshape(array: Array, shape: tuple[int, ...], batched: bool) -> Array:
    """The same values in another shape; the batch axis stays, and one more axis may be open (-1)."""
    return array.reshape((len(array), *shape[1:]) if batched else shape)


def _own_signature(
    session: "ort.InferenceSession", name: str, version: int, max_batch_size: int, metadata: dict[str, str]
) -> ModelSpec:
    inputs = tuple(_tensor(argument) for argument in session.get_inputs())
    outputs = tuple(_tensor(argument) for argument in session.get_outputs())
    # The first axis is the batch when every input and every output leaves it open.
    batched = bool(inputs) and all(tensor.shape[:1] == (-1,) for tensor in (*inputs, *outputs))
    return ModelSpec(name, version, inputs, outputs, max_batch_size if batched else 0, metadata)


def _tensor(argument: "ort.NodeArg") -> TensorSpec:
    datatype = _DATATYPES.get(argument.type)
    if datatype is None:
        known = ", ".join(NUMPY_TYPES)
        raise ModelRejected(f"'{argument.name}' is of type {argument.type}; the types served are {known}.")
    shape = tuple(size if isinstance(size, int) else -1 for size in argument.shape)
    return TensorSpec(argument.name, datatype, shape)
