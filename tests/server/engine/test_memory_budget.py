import os

from conveyor_server.engine.memory_budget import memory_budget

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_container_limit_counts_where_it_is_below_the_machines_memory(tmp_path):
    assert memory_budget(tmp_path) == MACHINE, "no cgroups"
    limit = tmp_path / "memory.max"
    for text, expected in (("max\n", MACHINE), ("1048576\n", 2**20), (f"{MACHINE * 2}\n", MACHINE)):
        limit.write_text(text)
        assert memory_budget(tmp_path) == expected


def test_the_older_cgroups_count_as_well(tmp_path):
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("4096\n")
    assert memory_budget(tmp_path) == 4096
