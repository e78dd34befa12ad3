"""The simulation behind docs/scaling.md, against what queueing theory says of any such system."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fleet_simulation
from balancing import POLICIES, LeastRequest
from fleet_simulation import Fleet, simulate

LEAST_REQUEST = [name for name in POLICIES if name.startswith("least request")]

fleets = st.builds(
    Fleet,
    slowness=st.lists(st.floats(0.5, 4), min_size=1, max_size=6),
    run_base=st.floats(0, 1e-3),
    per_request=st.floats(1e-5, 1e-3),
    max_run=st.integers(1, 8),
    queue_limit=st.integers(1, 20),
    balancers=st.integers(1, 3),
)
policies = st.sampled_from(list(POLICIES.values()))


@settings(max_examples=40, deadline=None)
@given(fleet=fleets, policy=policies, load=st.floats(0.1, 3), requests=st.integers(1, 300), seed=st.integers(0, 9))
def test_every_request_is_answered_once_or_refused(fleet, policy, load, requests, seed):
    outcome = simulate(fleet, policy, load=load, requests=requests, seed=seed)
    assert len(outcome.latency) + outcome.refused == requests
    assert outcome.share.sum() == pytest.approx(1)
    assert outcome.latency.min() >= 0.999 * (fleet.run_base + fleet.per_request) * min(fleet.slowness)


@settings(max_examples=40, deadline=None)
@given(fleet=fleets, policy=policies, load=st.floats(0.1, 3), requests=st.integers(1, 300), seed=st.integers(0, 9))
def test_littles_law_holds_to_the_last_digit_from_empty_to_empty(fleet, policy, load, requests, seed):
    """What is counted by the clock and what is counted by request are the same."""
    outcome = simulate(fleet, policy, load=load, requests=requests, seed=seed)
    rate = len(outcome.latency) / outcome.seconds
    assert outcome.open == pytest.approx(rate * outcome.latency.mean(), rel=1e-9)


@pytest.mark.parametrize("policy", POLICIES)
def test_littles_law_holds_for_the_rate_that_was_asked_for(policy):
    fleet = Fleet(slowness=[1, 1, 1.2, 1])
    outcome = simulate(fleet, POLICIES[policy], load=0.6, requests=40_000)
    assert outcome.open == pytest.approx(0.6 * fleet.capacity * outcome.latency.mean(), rel=0.03)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_replica_without_batches_waits_as_pollaczek_and_khinchine_say(load):
    """M/D/1: a mean wait of load · service / 2 (1 - load)."""
    service = 1e-3
    fleet = Fleet(slowness=[1], run_base=0.4e-3, per_request=0.6e-3, max_run=1, queue_limit=10**9)
    outcome = simulate(fleet, POLICIES["random"], load=load, requests=60_000)
    expected = service + load * service / (2 * (1 - load))
    assert outcome.latency.mean() == pytest.approx(expected, rel=0.06)
    assert outcome.busy[0] == pytest.approx(load, rel=0.02)


def test_replicas_chosen_at_random_are_so_many_single_ones():
    alone = simulate(Fleet(slowness=[1]), POLICIES["random"], load=0.6, requests=60_000)
    together = simulate(Fleet(slowness=[1] * 8), POLICIES["random"], load=0.6, requests=60_000, seed=1)
    assert together.latency.mean() == pytest.approx(alone.latency.mean(), rel=0.05)


@pytest.mark.parametrize("policy", LEAST_REQUEST)
@pytest.mark.parametrize("load", [0.6, 0.8])
@pytest.mark.parametrize(("replicas", "slowness"), [(4, 3), (10, 2), (10, 4), (30, 2)])
def test_with_a_slow_replica_least_request_has_a_far_better_p99_than_round_robin(policy, load, replicas, slowness):
    """Round robin gives the slow one as much as any other, more than it can bear; the margin here is threefold."""
    fleet = Fleet(slowness=[slowness] + [1] * (replicas - 1))
    least, in_turn = (
        simulate(fleet, POLICIES[name], load=load, requests=20_000).quantile(0.99) for name in (policy, "round robin")
    )
    assert 3 * least < in_turn


@pytest.mark.parametrize("policy", LEAST_REQUEST)
def test_least_request_gives_a_slow_replica_less(policy):
    outcome = simulate(Fleet(slowness=[3] + [1] * 9), POLICIES[policy], load=0.7, requests=20_000)
    assert outcome.share[0] < 0.7 * outcome.share[1:].min()


def test_among_equals_two_choices_beat_one():
    one, two = (
        simulate(Fleet(slowness=[1] * 10), POLICIES[name], load=0.8, requests=30_000).quantile(0.99)
        for name in ("random", "least request, best of 2")
    )
    assert 1.5 * two < one


def test_round_robin_gives_everyone_the_same():
    outcome = simulate(Fleet(slowness=[2, 1, 1, 1]), POLICIES["round robin"], load=0.3, requests=4_000)
    np.testing.assert_allclose(outcome.share, 0.25)


def test_too_much_load_keeps_everyone_busy_and_fills_the_queues():
    fleet = Fleet(slowness=[1, 1], queue_limit=100)
    outcome = simulate(fleet, POLICIES["least request, best of all"], load=2, requests=20_000)
    assert outcome.refused == pytest.approx(10_000, rel=0.05)
    assert outcome.busy.min() > 0.98


def test_a_seed_gives_the_same_again_and_another_something_else():
    fleet = Fleet(slowness=[1, 2], balancers=2)
    first, second, other = (
        simulate(fleet, POLICIES["least request, best of 2"], load=0.7, requests=2_000, seed=seed).latency
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@settings(max_examples=100, deadline=None)
@given(replicas=st.integers(1, 8), steps=st.lists(st.integers(0, 99), max_size=60))
def test_the_best_of_all_has_the_fewest_open_requests(replicas, steps):
    balancer, at = LeastRequest(replicas, np.random.default_rng(0)), []
    for step in steps:
        if step % 3 == 0 and at:
            balancer.answered(at.pop(step % len(at)))
        else:
            chosen = balancer.choose()
            assert balancer.open[chosen] == min(balancer.open)
            balancer.sent(chosen)
            at.append(chosen)
    assert sum(balancer.open) == len(at)


def test_the_program_prints_its_tables():
    command = [sys.executable, fleet_simulation.__file__, "--requests", "200"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert printed.count("open a replica") == 4
    assert all(name in printed for name in POLICIES)


def test_the_documentation_calculates_with_the_same_replica():
    a, b = fleet_simulation.RUN_BASE * 1e6, fleet_simulation.PER_REQUEST * 1e6
    one = Fleet(slowness=[1]).capacity
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    assert f"**{a:.0f} + {b:.0f}·k µs**, or {round(one, -2):,.0f} requests/s" in text
