import pytest

from conveyor_server.transports import held_bytes

MIB = 2**20


@pytest.mark.parametrize(
    ("memory", "workers", "held"), [(512, 1, 128), (24576, 1, 512), (24576, 2, 512), (2048, 4, 128), (100, 1, 64)]
)
def test_what_clients_make_us_hold_fits_the_memory(memory, workers, held):
    assert held_bytes(memory * MIB, workers) == held * MIB
