"""Both balancers with the files that we ship, and the client that balances itself, in front of three real servers.

Each test prints how many requests were sent, answered and failed. What happens to replicas here is not their end: for
that see test_restarts.py.
"""

import asyncio
import contextlib
import json
import shutil
import signal

import grpc.aio
import pytest

from support.balancers import Envoy
from support.fleet_loads import ROUNDS, SMALL, all_healthy, by_itself, failures, loads_of_all_kinds, through
from support.onnx_models import classifier, save


def publish(root, version):
    """A version that appears whole, as the exporter publishes it."""
    path = save(classifier(seed=version), root / ".new", "digits", version)
    path.parent.rename(root / "digits" / str(version))
    shutil.rmtree(root / ".new")


async def test_requests_spread_evenly(fleet, balancers):
    await all_healthy(balancers)
    # Few clients, for that busy replicas get less is the purpose of least-request, and this machine may be busy.
    light = {"questions": [SMALL], "clients": 3, "pause": 0}
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
        # For a second try HAProxy keeps one buffer of a request, and no more.
        patient = [through(balancers[0], deadline=30), through(balancers[1], deadline=30, questions=[SMALL])]
        for load in patient:
            await stack.enter_async_context(load)
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
    assert failures(patient) == []


@contextlib.contextmanager
def broken_model(fleet, folder, *also_without):
    """The last server has a `digits` that cannot be served, and some of its other models not at all."""
    root, server = fleet.repositories[2], fleet.servers[2]
    for model in ("digits", *also_without):
        (root / model).rename(folder / model)
        server.wait_for(f"{model} has left")
    save(classifier(), root, "digits").write_bytes(b"broken")
    server.wait_for("digits version 1 is not served")
    try:
        yield
    finally:
        shutil.rmtree(root / "digits")
        for model in ("digits", *also_without):
            (folder / model).rename(root / model)
            server.wait_for(rf"{model} version \d+ is ready")


async def test_a_replica_whose_model_is_not_ready_gets_nothing(fleet, balancers, tmp_path):
    with broken_model(fleet, tmp_path, "large"):
        await all_healthy(balancers, 2)
        for load in (*(through(one, questions=[SMALL]) for one in balancers), by_itself(fleet, questions=[SMALL])):
            await answered_without(fleet, load, "Replica not ready")
    await all_healthy(balancers)


async def test_who_asks_for_a_model_by_name_sees_that_it_is_not_ready(fleet, balancers, tmp_path):
    """As a whole, the replica is ready: it has another model."""
    with Envoy(fleet.addresses, tmp_path, "digits") as by_name:
        await all_healthy([by_name])
        with broken_model(fleet, tmp_path):
            await all_healthy([by_name], 2)
            await answered_without(fleet, through(by_name, questions=[SMALL]), "Model not ready, asked for by name")
            assert await asyncio.to_thread(balancers[0].healthy) == 3
        await all_healthy([by_name])


async def test_what_one_replica_refuses_another_one_answers(fleet, balancers, tmp_path):
    before = await asyncio.to_thread(fleet.received)
    with broken_model(fleet, tmp_path):
        async with through(balancers[0], questions=[SMALL]) as load:
            await load.progress(300)
        print(load.report("Refused by one replica"))
    now = await asyncio.to_thread(fleet.received)
    assert now[2] > before[2], "it was asked"
    assert load.failures == []
    await all_healthy(balancers)


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
