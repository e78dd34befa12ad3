from conveyor_server.core.throughput import Throughput


def test_full_runs_move_the_estimate_both_ways():
    throughput = Throughput(1000.0, run_size=10)
    for _ in range(100):
        throughput.observe(10, 0.1)
    assert abs(throughput.rows_per_second - 100) < 1
    for _ in range(100):
        throughput.observe(10, 0.001)
    assert abs(throughput.rows_per_second - 10_000) < 10


def test_small_runs_count_only_when_they_were_faster():
    throughput = Throughput(1000.0, run_size=10)
    throughput.observe(1, 0.1)
    assert throughput.rows_per_second == 1000
    throughput.observe(1, 0.0001)
    assert throughput.rows_per_second > 1000


def test_seconds_for_rows():
    assert Throughput(200.0, run_size=10).seconds_for(50) == 0.25
