"""What Envoy makes of replicas that are healthy and do not answer well. The servers do as they are told."""

import asyncio
import itertools
import time

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.balancers import Envoy

METHOD = "/inference.GRPCInferenceService/ModelInfer"


class ToldServer(health_pb2_grpc.HealthServicer):
    """Says that it is well, and answers each request with the codes that were set, or with what it got."""

    def __init__(self):
        self.server = grpc.aio.server()
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.codes = itertools.repeat(grpc.StatusCode.OK)
        self.asked = 0
        health_pb2_grpc.add_HealthServicer_to_server(self, self.server)
        rpcs = {"ModelInfer": grpc.unary_unary_rpc_method_handler(self.infer)}
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", rpcs),)
        )

    async def Check(self, request, context):
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def infer(self, data, context):
        self.asked += 1
        if (code := next(self.codes)) is not grpc.StatusCode.OK:
            await context.abort(code)
        return data


async def ask(url, requests, data=b"question"):
    """How many of these requests, one after the other, ended with which code."""
    codes = {}
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(url, options=options) as channel:
        call = channel.unary_unary(METHOD)
        for _ in range(requests):
            try:
                await call(data, timeout=10)
                code = "OK"
            except grpc.aio.AioRpcError as error:
                code = error.code().name
            codes[code] = codes.get(code, 0) + 1
    return codes


@pytest.fixture
async def servers():
    servers = [ToldServer() for _ in range(3)]
    for server in servers:
        await server.server.start()
    yield servers
    for server in servers:
        await server.server.stop(0)


@pytest.fixture
async def envoy(servers, tmp_path):
    with Envoy([(server.port, 0) for server in servers], tmp_path) as envoy:
        await asyncio.to_thread(envoy.wait_for_healthy, 3)
        yield envoy


async def test_a_replica_that_fails_everything_is_ejected_and_nobody_notices(servers, envoy):
    """Who fails at once has few requests under way, and would attract all."""
    servers[0].codes = itertools.repeat(grpc.StatusCode.INTERNAL)
    for _ in range(200):
        assert await ask(envoy.url, 50) == {"OK": 50}
        if await asyncio.to_thread(envoy.counter, "cluster_outlier_detection_ejections_active"):
            break
    asked = servers[0].asked
    assert await ask(envoy.url, 50) == {"OK": 50}
    assert servers[0].asked == asked


async def test_what_a_full_replica_refuses_is_asked_elsewhere_and_is_no_reason_to_eject_it(servers, envoy):
    full = itertools.cycle([grpc.StatusCode.UNAVAILABLE] * 8 + [grpc.StatusCode.OK])
    servers[0].codes = full
    end = time.monotonic() + 3  # three rounds of Envoy's judgement
    while time.monotonic() < end:
        assert await ask(envoy.url, 50) == {"OK": 50}
        assert await ask(envoy.url, 2, bytes(3 * 2**20)) == {"OK": 2}, "a large body is kept for its retry"
    assert await asyncio.to_thread(envoy.counter, "cluster_outlier_detection_ejections_enforced_total") == 0


async def test_where_all_are_full_the_client_has_to_know(servers, envoy):
    for server in servers:
        server.codes = itertools.repeat(grpc.StatusCode.UNAVAILABLE)
    assert await ask(envoy.url, 10) == {"UNAVAILABLE": 10}
    assert sum(server.asked for server in servers) <= 40, "four tries at most"
