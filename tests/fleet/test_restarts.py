"""Replicas are restarted and killed under load, behind both balancers and the client that balances itself.

All see the same events at the same time. Each test prints how many requests were sent, answered and failed.
"""

import asyncio
import signal

from support.fleet_loads import ROUNDS, SMALL, all_healthy, failures, loads_of_all_kinds


async def test_a_rolling_restart_loses_nothing(fleet, balancers):
    await all_healthy(balancers)
    async with loads_of_all_kinds(fleet, balancers, f"Rolling restart x {ROUNDS}") as loads:
        for number in list(range(3)) * ROUNDS:
            fleet.servers[number].signal(signal.SIGTERM)
            assert await asyncio.to_thread(fleet.servers[number].exit_code) == 0
            await asyncio.to_thread(fleet.restart, number)
            await all_healthy(balancers)
            for load in loads:
                await load.progress(20)
    assert failures(loads) == []


async def test_a_killed_replica_loses_nothing(fleet, balancers):
    await all_healthy(balancers)
    # For a second try HAProxy keeps one buffer of a request, and no more.
    case = f"kill -9 x {ROUNDS}"
    async with loads_of_all_kinds(fleet, balancers, case, of_haproxy=[SMALL], clients=16, pause=0) as loads:
        for number in range(ROUNDS):
            fleet.servers[number % 3].signal(signal.SIGKILL)
            await all_healthy(balancers, 2)
            for load in loads:
                await load.progress(50)
            await asyncio.to_thread(fleet.restart, number % 3)
            await all_healthy(balancers)
    assert failures(loads) == []
