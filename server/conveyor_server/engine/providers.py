"""Which execution provider runs a model, with which options. A pure choice: what is available is passed in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from conveyor_server.core.errors import ProviderUnavailable

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


class ExecutionProvider(StrEnum):
    """What may be asked for."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


CUDA_OPTIONS: Mapping[str, str] = {
    # The default, EXHAUSTIVE, searches for seconds at each new batch size.
    "cudnn_conv_algo_search": "HEURISTIC",
    # The default doubles the arena at each growth and never gives anything back.
    "arena_extend_strategy": "kSameAsRequested",
}


@dataclass(frozen=True)
class ProviderChoice:
    """Providers in the order of preference, and whether the first one is a must."""

    names: tuple[str, ...]
    required: bool

    def options(self, device: int = 0, gpu_memory_bytes: int = 0) -> list[dict[str, str]]:
        """Provider options, one dictionary for each name.

        Args:
            device: number of the GPU.
            gpu_memory_bytes: limit of the runtime's memory on it; 0 for none.
        """
        cuda = {**CUDA_OPTIONS, "device_id": str(device)}
        if gpu_memory_bytes:
            cuda["gpu_mem_limit"] = str(gpu_memory_bytes)
        return [cuda if name == CUDA else {} for name in self.names]

    def accept(self, active: Sequence[str]) -> str | None:
        """Judges what the runtime really took: None when it is the first choice, else what to tell the operator.

        Raises:
            ProviderUnavailable: the first choice was a must.
        """
        if active and active[0] == self.names[0]:
            return None
        text = f"{self.names[0]} could not be used; the runtime took {active[0] if active else 'nothing'}."
        if self.required:
            raise ProviderUnavailable(
                f"{text} Check the driver, CUDA and cuDNN, or start with --execution-provider cpu."
            )
        return f"{text} Serving on the CPU."


def choose_provider(wanted: ExecutionProvider, available: Sequence[str]) -> ProviderChoice:
    """The providers to open a session with.

    Args:
        wanted: `cpu`, `cuda`, or `auto` for CUDA where it works and the CPU elsewhere.
        available: the providers that the installed onnxruntime was built with.

    Raises:
        ProviderUnavailable: `cuda` was asked for and this onnxruntime has none.
    """
    if wanted is ExecutionProvider.CPU or (wanted is ExecutionProvider.AUTO and CUDA not in available):
        return ProviderChoice((CPU,), required=True)
    if CUDA not in available:
        raise ProviderUnavailable(
            f"--execution-provider cuda: the installed onnxruntime has only {', '.join(available)}. Install "
            "'conveyor-server[gpu]' in an environment without the [cpu] extra, or start with --execution-provider cpu."
        )
    return ProviderChoice((CUDA, CPU), required=wanted is ExecutionProvider.CUDA)
