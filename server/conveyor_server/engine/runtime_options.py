"""How a model is run: provider, threads, memory, batch. Plain data, so that whoever sets it needs no runtime."""

from dataclasses import dataclass
from enum import Enum

from conveyor_server.engine.providers import ExecutionProvider


class GraphOptimization(Enum):
    """How far onnxruntime rewrites the graph when it loads a model."""

    BASIC = "ORT_ENABLE_BASIC"
    EXTENDED = "ORT_ENABLE_EXTENDED"
    ALL = "ORT_ENABLE_ALL"


@dataclass(frozen=True)
class RuntimeOptions:
    """The options of one model."""

    provider: ExecutionProvider = ExecutionProvider.AUTO
    device: int = 0
    """Number of the GPU."""
    threads: int = 0
    """Threads inside one run; 0 lets a measurement choose between 1 and `cpus`."""
    cpus: int = 0
    """CPUs that the threads of all models may fill; 0 for all that the process may use."""
    inter_threads: int = 1
    """Operators of one run that may run at the same time."""
    arena: bool = True
    """Whether the runtime keeps memory for the next run."""
    gpu_memory_bytes: int = 0
    """Limit of the runtime's GPU memory; 0 for none."""
    graph: GraphOptimization = GraphOptimization.ALL
    max_batch_size: int = 1024
    """Rows that one request may carry, where the configuration does not say."""
    run_size: int | None = None
    """Rows of a full run; None lets a measurement choose."""
