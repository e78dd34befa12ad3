"""Both balancers with the files that we ship, and the client that balances itself, in front of three real servers.

All see the same events at the same time. Each prints how many requests were sent, answered and failed. Run it longer
with CONVEYOR_FLEET_ROUNDS=10: each event then happens so many times.
"""

import asyncio
import contextlib
import json
import os
import runpy
import shutil
import signal
from pathlib import Path

import grpc.aio
import pytest

from support.balancers import Envoy, HaProxy
from support.fleet import IMAGES, LARGE, Fleet, Load, question
from support.onnx_models import classifier, save

ROUNDS = int(os.environ.get("CONVEYOR_FLEET_ROUNDS", "1"))
# Twice what a balancer needs to see that a replica is leaving; the default, 5 s, makes the test longer, not harder.
LAME_DUCK = ("--lame-duck-seconds", "2.5")
ROUND_ROBIN = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "round_robin.py"))
SMALL = question("digits", IMAGES, range(1, 2 + ROUNDS))
BIG = question("large", LARGE)


def make_repository(root):
    save(classifier(seed=1), root, "digits")
    save(classifier(height=64, width=64, seed=1), root, "large")
    return root


def publish(root, version):
    """A version that appears whole, as the exporter publishes it."""
    path = save(classifier(seed=version), root / ".new", "digits", version)
    path.parent.rename(root / "digits" / str(version))
    shutil.rmtree(root / ".new")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    repositories = [make_repository(tmp_path_factory.mktemp("models")) for _ in range(3)]
    with Fleet(repositories, *LAME_DUCK, "--model-control", "poll", "--poll-seconds", "0.2") as fleet:
        yield fleet


@pytest.fixture(scope="module")
def balancers(fleet, tmp_path_factory):
    with (
        Envoy(fleet.addresses, tmp_path_factory.mktemp("envoy")) as envoy,
        HaProxy(fleet.addresses, tmp_path_factory.mktemp("haproxy")) as haproxy,
    ):
        yield [envoy, haproxy]


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


async def test_requests_spread_evenly(fleet, balancers):
    await all_healthy(balancers)
    # Few clients, for that busy replicas get less is the purpose of least-request, and this machine may be busy.
    light = {"questions": [SMALL], "clients": 3, "pause": 0.001}
    for load in (*(through(balancer, **light) for balancer in balancers), by_itself(fleet, **light)):
        before = await asyncio.to_thread(fleet.received)
        async with load:
            # Least-request flips coins, so a share has its variance; it must vanish.
            for _ in range(20):
                await load.progress(2000)
                now = await asyncio.to_thread(fleet.received)
                shares = [new - old for new, old in zip(now, before, strict=True)]
                mean = sum(shares) / 3
                if max(abs(share - mean) for share in shares) <= 0.1 * mean:
                    break
            else:
                pytest.fail(f"{load.name} spread {shares}")
        print(load.report("Even spread", f", shares {shares}"))
        assert load.failures == []


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


async def test_a_new_version_under_load_loses_nothing(fleet, balancers):
    await all_healthy(balancers)
    async with loads_of_all_kinds(fleet, balancers, f"New version x {ROUNDS}") as loads:
        for version in range(2, 2 + ROUNDS):
            for root, server in zip(fleet.repositories, fleet.servers, strict=True):
                publish(root, version)
                await asyncio.to_thread(server.wait_for, f"digits version {version} is ready")
            for load in loads:
                await load.progress(50)
    assert failures(loads) == []
    assert all(load.versions[str(1 + ROUNDS)] > 0 for load in loads)


async def test_a_frozen_replica_is_left_alone(fleet, balancers):
    """It keeps its connections and answers nothing: only what cannot wait for its second try is lost."""
    await all_healthy(balancers)
    async with contextlib.AsyncExitStack() as stack:
        hasty = [await stack.enter_async_context(through(one, deadline=1)) for one in balancers]
        patient = [await stack.enter_async_context(through(one, deadline=30)) for one in balancers]
        fleet.servers[1].signal(signal.SIGSTOP)
        await all_healthy(balancers, 2)
        lost_until_ejection = [len(load.failures) for load in hasty]
        for load in hasty:
            await load.progress(400)
        after = [len(load.failures) for load in hasty]
        fleet.servers[1].signal(signal.SIGCONT)
        await all_healthy(balancers)
    for load in hasty:
        print(load.report("SIGSTOP, deadline 1 s"))
    for load in patient:
        print(load.report("SIGSTOP, deadline 30 s"))
    assert {failure.code for _, failure in failures(hasty)} <= {"DEADLINE_EXCEEDED"}
    # What was under way to it when it was ejected may still expire: at most one request of each client.
    for load, lost, later in zip(hasty, lost_until_ejection, after, strict=True):
        assert later - lost <= load.clients
        assert lost <= load.clients * 5
    assert failures(patient) == []


async def test_a_replica_whose_model_is_not_ready_gets_nothing(fleet, balancers, tmp_path):
    """Its other model makes it ready as a whole; then only who asks for the model by name turns away."""
    sick = fleet.servers[2]
    root = fleet.repositories[2]
    with Envoy(fleet.addresses, tmp_path, "digits") as strict:
        await all_healthy([*balancers, strict])
        for model in ("digits", "large"):
            (root / model).rename(tmp_path / model)
            await asyncio.to_thread(sick.wait_for, f"{model} has left")
        save(classifier(), root, "digits").write_bytes(b"broken")
        await asyncio.to_thread(sick.wait_for, "digits version 1 is not served")
        await all_healthy([*balancers, strict], 2)
        for load in (*(through(one, questions=[SMALL]) for one in balancers), by_itself(fleet, questions=[SMALL])):
            await answered_without(fleet, load, "Replica not ready")
        (tmp_path / "large").rename(root / "large")
        await all_healthy(balancers)
        assert strict.healthy() == 2
        await answered_without(fleet, through(strict, questions=[SMALL]), "Model not ready, asked for by name")
        shutil.rmtree(root / "digits")
        (tmp_path / "digits").rename(root / "digits")
        await all_healthy([*balancers, strict])


async def answered_without(fleet, load, case):
    """All is answered, and the last server gets none of it."""
    before = await asyncio.to_thread(fleet.received)
    async with load:
        await load.progress(300)
    print(load.report(case))
    assert load.failures == []
    now = await asyncio.to_thread(fleet.received)
    assert [new > old for new, old in zip(now, before, strict=True)] == [True, True, False]


async def test_a_model_is_not_loaded_through_a_balancer(fleet, balancers):
    for balancer in balancers:
        async with grpc.aio.insecure_channel(balancer.url) as channel:
            for action in ("Load", "Unload"):
                call = channel.unary_unary(f"/inference.GRPCInferenceService/RepositoryModel{action}")
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(b"", timeout=10)
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_access_log_names_replica_and_status(fleet, balancers):
    envoy = balancers[0]
    async with grpc.aio.insecure_channel(envoy.url) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"\n\x04nope", timeout=10)
    for _ in range(300):
        lines = [json.loads(line) for line in envoy.log.read_text().splitlines() if line.startswith("{")]
        if found := [line for line in lines if line["grpc_status"] == "NotFound"]:
            break
        await asyncio.sleep(0.1)
    assert found[0]["method"] == "/inference.GRPCInferenceService/ModelInfer"
    assert found[0]["replica"] in [f"127.0.0.1:{port}" for port, _ in fleet.addresses]
