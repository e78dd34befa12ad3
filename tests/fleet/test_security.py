"""Balancers in front of replicas that want TLS and tokens, and whose connections end by their age."""

import asyncio
import contextlib
import hashlib
import re
from pathlib import Path

import grpc.aio
import pytest
import yaml

from support.balancers import Envoy, HaProxy
from support.certificates import issue
from support.fleet import IMAGES, Fleet, Load, question
from support.onnx_models import classifier, save

BALANCING = (Path(__file__).parents[2] / "docs" / "balancing.md").read_text()
SMALL = question("digits", IMAGES)
TOKEN = "conveyor_of-the-clients"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(classifier(seed=1), root, "digits")
    return root


async def test_connections_of_balancers_end_by_their_age_and_nothing_is_lost(repository, tmp_path):
    """Not even a second try is needed."""
    flags = ["--max-connection-age-seconds", "0.3"]
    with Fleet([repository] * 2, *flags) as fleet, Envoy(fleet.addresses, tmp_path) as envoy:
        envoy.wait_for_healthy(2)
        before = envoy.counter("cluster_upstream_cx_total")
        channel = grpc.aio.insecure_channel(envoy.url, options=[("grpc.enable_retries", 0)])
        async with Load("Envoy", channel, [SMALL], pause=0) as load:
            while envoy.counter("cluster_upstream_cx_total") < before + 50:
                await load.progress(50)
        print("\n" + load.report("50 connections of 0.3 s"))
        assert envoy.counter("cluster_upstream_cx_close_notify") > 0
        for lost in ("rq_retry", "rq_rx_reset", "rq_tx_reset", "cx_destroy_remote_with_active_rq"):
            assert envoy.counter(f"cluster_upstream_{lost}") == 0, lost
    assert load.failures == []


def documented(language, mark):
    """A block of the page that has the mark."""
    [block] = [found for found in re.findall(rf"```{language}\n(.*?)```", BALANCING, re.DOTALL) if mark in found]
    return block


@pytest.fixture
def secure(repository, tmp_path):
    """Replicas with TLS, for the name `conveyor`, and tokens; and the file that balancers trust."""
    authority = issue("root", authority=True)
    certificate, key = issue("conveyor", authority, also="conveyor").write(tmp_path / "tls")
    trusted = tmp_path / "ca.crt"
    trusted.write_bytes(authority.pem)
    tokens = tmp_path / "tokens"
    tokens.write_text(f"clients infer sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key), "--tokens", str(tokens)]
    with Fleet([repository] * 2, *flags) as fleet:
        yield fleet, trusted


def until_it_refuses(balancer):
    while True:
        with contextlib.suppress(OSError):  # it is not up yet
            if balancer.refuses():
                return


async def ask(url, token=TOKEN):
    async with grpc.aio.insecure_channel(url) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            await call(SMALL.message, timeout=30, metadata=(("authorization", f"Bearer {token}"),))
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


class SecureEnvoy(Envoy):
    """With the block of the page in its cluster."""

    def __init__(self, replicas, folder, trusted):
        self._socket = yaml.safe_load(documented("yaml", "transport_socket").replace("/tls/ca.crt", str(trusted)))
        super().__init__(replicas, folder)

    def change(self, config):
        [cluster] = [one for one in config["static_resources"]["clusters"] if one["name"] == "conveyor"]
        cluster.update(self._socket)

    def refuses(self):
        """It takes replicas for unhealthy until it knows better."""
        return self.counter("cluster_health_check_failure") >= 4 and self.healthy() == 0


class SecureHaProxy(HaProxy):
    """With what the page says of its servers."""

    def __init__(self, replicas, folder, trusted):
        self._lines = documented("haproxy", "ssl").replace("/tls/ca.crt", str(trusted)).splitlines()
        super().__init__(replicas, folder)

    def change(self, text):
        for beginning, line in zip(("http-check connect", "default-server"), self._lines, strict=True):
            text, number = re.subn(rf"\b{beginning} .*", line, text)
            assert number == 2, line
        return text

    def refuses(self):
        """It takes replicas for healthy until it knows better."""
        return self.healthy() == 0


@pytest.mark.parametrize("kind", [SecureEnvoy, SecureHaProxy])
@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_a_replica_that_cannot_prove_who_it_is_is_sent_nothing(repository, tmp_path, kind, wrong):
    authority = issue("root", authority=True)
    trusted = tmp_path / "ca.crt"
    trusted.write_bytes((issue("other", authority=True) if wrong == "authority" else authority).pem)
    name = "conveyor" if wrong == "authority" else "somebody"
    certificate, key = issue(name, authority, also=name).write(tmp_path / "tls")
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    with Fleet([repository] * 2, *flags) as fleet, kind(fleet.addresses, tmp_path, trusted) as balancer:
        async with asyncio.timeout(30):
            await asyncio.to_thread(until_it_refuses, balancer)
        assert await ask(balancer.url) == "UNAVAILABLE"


@pytest.mark.parametrize("kind", [SecureEnvoy, SecureHaProxy])
async def test_replicas_with_tls_and_tokens_are_healthy_and_answer_those_who_may_ask(secure, tmp_path, kind):
    fleet, trusted = secure
    with kind(fleet.addresses, tmp_path, trusted) as balancer:
        balancer.wait_for_healthy(2)
        assert await ask(balancer.url) == "OK"
        assert await ask(balancer.url, "x") == "UNAUTHENTICATED"
