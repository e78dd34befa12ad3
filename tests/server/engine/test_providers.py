import pytest

from conveyor_server.core.errors import ProviderUnavailable, StartError
from conveyor_server.engine.providers import CPU, CUDA, ExecutionProvider, choose_provider

WITH_CUDA = ["TensorrtExecutionProvider", CUDA, CPU]


@pytest.mark.parametrize(
    ("wanted", "available", "names", "required"),
    [
        ("cpu", [CPU], (CPU,), True),
        ("cpu", WITH_CUDA, (CPU,), True),
        ("auto", [CPU], (CPU,), True),
        ("auto", WITH_CUDA, (CUDA, CPU), False),
        ("cuda", WITH_CUDA, (CUDA, CPU), True),
    ],
)
def test_choice(wanted, available, names, required):
    choice = choose_provider(ExecutionProvider(wanted), available)
    assert (choice.names, choice.required) == (names, required)
    assert choice.accept(list(names)) is None


def test_cuda_without_a_cuda_build_says_what_to_install():
    with pytest.raises(ProviderUnavailable, match=r"has only CPUExecutionProvider. Install 'conveyor-server\[gpu\]'"):
        choose_provider(ExecutionProvider.CUDA, [CPU])
    assert issubclass(ProviderUnavailable, StartError)


def test_cuda_that_the_runtime_did_not_take_is_an_error_when_asked_for_and_a_notice_on_auto():
    with pytest.raises(ProviderUnavailable, match="CUDAExecutionProvider could not be used; the runtime took CPU"):
        choose_provider(ExecutionProvider.CUDA, WITH_CUDA).accept([CPU])
    assert "Serving on the CPU" in choose_provider(ExecutionProvider.AUTO, WITH_CUDA).accept([CPU])


def test_cuda_searches_convolutions_by_heuristic_and_does_not_double_its_arena():
    chosen = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    choice = choose_provider(ExecutionProvider.CUDA, WITH_CUDA)
    assert choice.options() == [{**chosen, "device_id": "0"}, {}]
    assert choice.options(2, 10**9) == [{**chosen, "device_id": "2", "gpu_mem_limit": "1000000000"}, {}]
