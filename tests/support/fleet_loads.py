"""Load on a fleet through each balancer and by the client that balances itself, all at the same time.

CONVEYOR_FLEET_ROUNDS=10 has each event of the tests happen so many times.
"""

import asyncio
import contextlib
import os
import runpy
from pathlib import Path

import grpc.aio

from support.fleet import IMAGES, LARGE, Load, question

ROUNDS = int(os.environ.get("CONVEYOR_FLEET_ROUNDS", "1"))
ROUND_ROBIN = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "round_robin.py"))
SMALL = question("digits", IMAGES, range(1, 2 + ROUNDS))
BIG = question("large", LARGE)


async def all_healthy(balancers, number=3):
    for balancer in balancers:
        await asyncio.to_thread(balancer.wait_for_healthy, number)


def through(balancer, **options):
    """Clients of a balancer; they retry nothing themselves."""
    channel = grpc.aio.insecure_channel(
        balancer.url, options=[("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    )
    return Load(balancer.name, channel, **{"questions": [SMALL] * 19 + [BIG], **options})


def by_itself(fleet, **options):
    """Clients that balance by themselves."""
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port, _ in fleet.addresses)
    channel = grpc.aio.insecure_channel(
        target, options=[*ROUND_ROBIN["OPTIONS"], ("grpc.use_local_subchannel_pool", 1)]
    )
    return Load("round_robin client", channel, **{"questions": [SMALL] * 19 + [BIG], **options})


@contextlib.asynccontextmanager
async def loads_of_all_kinds(fleet, balancers, case, *, of_haproxy=None, **options):
    """Load through each, which ends with its report."""
    loads = [*(through(balancer, **options) for balancer in balancers), by_itself(fleet, **options)]
    loads[1].questions = of_haproxy or loads[1].questions
    async with contextlib.AsyncExitStack() as stack:
        for load in loads:
            await stack.enter_async_context(load)
        yield loads
    for load in loads:
        print(load.report(case))


def failures(loads):
    return [(load.name, failure) for load in loads for failure in load.failures]
