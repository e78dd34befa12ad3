"""Three real servers and both real balancers, started once."""

import pytest

from support.balancers import Envoy, HaProxy
from support.fleet import Fleet
from support.onnx_models import classifier, save

# Twice what a balancer needs to see that a replica is leaving; the default, 5 s, makes the test longer, not harder.
LAME_DUCK = ("--lame-duck-seconds", "2.5")


@pytest.fixture(scope="session")
def fleet(tmp_path_factory):
    repositories = [tmp_path_factory.mktemp("models") for _ in range(3)]
    for root in repositories:
        save(classifier(seed=1), root, "digits")
        save(classifier(height=64, width=64, seed=1), root, "large")
    with Fleet(repositories, *LAME_DUCK, "--model-control", "poll", "--poll-seconds", "0.2") as fleet:
        yield fleet


@pytest.fixture(scope="session")
def balancers(fleet, tmp_path_factory):
    with (
        Envoy(fleet.addresses, tmp_path_factory.mktemp("envoy")) as envoy,
        HaProxy(fleet.addresses, tmp_path_factory.mktemp("haproxy")) as haproxy,
    ):
        for balancer in (envoy, haproxy):
            balancer.wait_for_healthy(3)
        yield [envoy, haproxy]
