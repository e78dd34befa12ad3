"""Replicas behind a balancer, simulated event by event: `python benchmarks/fleet_simulation.py`.

A replica takes all that waits (up to `--max-run` requests), is busy for a + b·k with them, and answers them together;
a and b are what benchmarks/replica_cost.py measured. Requests arrive as a Poisson process. A balancer knows how many
of its own requests each replica has not answered yet, and nothing else; there may be several balancers. Nothing is
retried, the network takes no time, and what a full queue refuses is counted.
"""

import argparse
import heapq
import itertools
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from balancing import POLICIES, Balancer

RUN_BASE = 115e-6
PER_REQUEST = 23e-6
"""Seconds: a and b of one replica on one core."""


@dataclass(frozen=True)
class Fleet:
    """Replicas and their balancers.

    Args:
        slowness: for each replica, how many times longer than the measured one it takes.
        run_base: seconds of a run, whatever is in it.
        per_request: seconds that each request adds to its run.
        max_run: requests in a run at most.
        queue_limit: requests that may wait for one replica; more are refused.
        balancers: how many; each request comes to one of them by chance.
    """

    slowness: Sequence[float]
    run_base: float = RUN_BASE
    per_request: float = PER_REQUEST
    max_run: int = 64
    queue_limit: int = 8192
    balancers: int = 1

    @property
    def capacity(self) -> float:
        """Requests a second that all replicas can answer together when each gets what it can bear."""
        full_run = self.run_base + self.per_request * self.max_run
        return sum(self.max_run / (full_run * slowness) for slowness in self.slowness)


@dataclass(frozen=True)
class Outcome:
    """What a simulation counted. Latencies in seconds, in the order of arrival, of requests that were answered."""

    latency: np.ndarray
    refused: int
    seconds: float
    """From the first moment to the last answer."""
    busy: np.ndarray
    """For each replica: how long it worked, as a share of the time until the last arrival; above 1: work piled up."""
    share: np.ndarray
    """For each replica: its part of the answered requests."""
    open: float
    """Mean number of unanswered requests of the fleet, counted as time went by."""

    def quantile(self, q: float) -> float:
        """Of the latency, in seconds, without the first fifth, in which the queues fill."""
        return float(np.quantile(self.latency[len(self.latency) // 5 :], q))


def simulate(
    fleet: Fleet, policy: Callable[[int, np.random.Generator], Balancer], *, load: float, requests: int, seed: int = 0
) -> Outcome:
    """Sends so many requests at `load` times the fleet's capacity, and waits until all are answered."""
    random, replicas = np.random.default_rng(seed), len(fleet.slowness)
    arrivals = np.cumsum(random.exponential(1 / (load * fleet.capacity), requests)).tolist()
    through = random.integers(fleet.balancers, size=requests).tolist()
    balancers = [policy(replicas, np.random.default_rng([seed, number])) for number in range(fleet.balancers)]
    queues: list[deque[int]] = [deque() for _ in range(replicas)]
    runs: list[list[int]] = [[] for _ in range(replicas)]
    ends: list[tuple[float, int]] = []
    finished = np.full(requests, np.nan)
    busy, share = np.zeros(replicas), np.zeros(replicas)
    clock, present, area = 0.0, 0, 0.0

    def start(replica: int, now: float) -> None:
        queue = queues[replica]
        runs[replica] = run = [queue.popleft() for _ in range(min(fleet.max_run, len(queue)))]
        duration = (fleet.run_base + fleet.per_request * len(run)) * fleet.slowness[replica]
        busy[replica] += duration
        heapq.heappush(ends, (now + duration, replica))

    for number in itertools.count():
        arrival = arrivals[number] if number < requests else float("inf")
        while ends and ends[0][0] <= arrival:
            now, replica = heapq.heappop(ends)
            area, clock = area + present * (now - clock), now
            run = runs[replica]
            runs[replica] = []
            finished[run] = now
            share[replica] += len(run)
            present -= len(run)
            for request in run:
                balancers[through[request]].answered(replica)
            if queues[replica]:
                start(replica, now)
        if number >= requests:
            break
        area, clock = area + present * (arrival - clock), arrival
        balancer = balancers[through[number]]
        replica = balancer.choose()
        if len(queues[replica]) >= fleet.queue_limit:
            continue
        balancer.sent(replica)
        queues[replica].append(number)
        present += 1
        if not runs[replica]:
            start(replica, arrival)

    answered = ~np.isnan(finished)
    return Outcome(
        latency=(finished - np.array(arrivals))[answered],
        refused=int((~answered).sum()),
        seconds=clock,
        busy=busy / arrivals[-1],
        share=share / max(1, share.sum()),
        open=area / clock,
    )


def tables(requests: int, seed: int, fleet_of: Callable[..., Fleet]) -> None:
    """The tables of docs/scaling.md."""
    heading = (
        f"{'policy':26} {'p50 ms':>8} {'p99 ms':>8} {'busy':>5} {'busiest':>8} {'open a replica':>15} {'refused':>8}"
    )

    def title(text: str) -> None:
        print(f"\n{text}\n{'':30} {heading}")

    def row(label: str, fleet: Fleet, policy: str, load: float) -> None:
        outcome = simulate(fleet, POLICIES[policy], load=load, requests=requests, seed=seed)
        print(
            f"{label:30} {policy:26} {outcome.quantile(0.5) * 1e3:8.2f} {outcome.quantile(0.99) * 1e3:8.2f}"
            f" {outcome.busy.mean():5.0%} {outcome.busy.max():8.0%} {outcome.open / len(fleet.slowness):15.1f}"
            f" {outcome.refused:8}",
            flush=True,
        )

    title("Ten equal replicas")
    for load, policy in itertools.product((0.3, 0.5, 0.7, 0.8, 0.9, 0.95), POLICIES):
        row(f"load {load:.0%}", fleet_of([1] * 10), policy, load)
    title("Ten replicas, one of them slower; load 70 %")
    for slowness, policy in itertools.product((1.5, 3), POLICIES):
        row(f"one takes {slowness:g} times as long", fleet_of([slowness] + [1] * 9), policy, 0.7)
    title("More replicas, one in ten takes 1.3 times as long; load 70 %")
    for tens, policy in itertools.product((1, 10, 100), POLICIES):
        row(f"replicas: {tens * 10}", fleet_of([1.3, *[1] * 9] * tens), policy, 0.7)
    title("A hundred replicas, one in ten takes 1.3 times as long, behind several balancers; load 70 %")
    for balancers, policy in itertools.product((1, 10, 100), POLICIES):
        row(f"balancers: {balancers}", fleet_of([1.3, *[1] * 9] * 10, balancers=balancers), policy, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-base", type=float, default=RUN_BASE * 1e6, help="a, in microseconds")
    parser.add_argument("--per-request", type=float, default=PER_REQUEST * 1e6, help="b, in microseconds")
    parser.add_argument("--max-run", type=int, default=64, help="requests in a run at most")
    parser.add_argument("--requests", type=int, default=300_000, help="in each simulation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    def fleet_of(slowness: Sequence[float], balancers: int = 1) -> Fleet:
        return Fleet(
            slowness=slowness,
            run_base=options.run_base / 1e6,
            per_request=options.per_request / 1e6,
            max_run=options.max_run,
            balancers=balancers,
        )

    print(f"a run of k requests takes {options.run_base:g} + {options.per_request:g}·k µs, at most {options.max_run}")
    tables(options.requests, options.seed, fleet_of)


if __name__ == "__main__":
    main()
