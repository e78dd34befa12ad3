import inspect

import pytest

from conveyor_server.client import AsyncClient, Client
from conveyor_server.client.channel_options import channel_options
from conveyor_server.client.target import parse_target


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"timeout": 0}, "timeout must be above 0"),
        ({"timeout": float("inf")}, "at most 31536000 seconds, got inf"),
        ({"connections": 0}, "connections and keepalive must be above 0, got 0"),
        ({"keepalive": 0}, "keepalive must be above 0"),
        ({"gather_rows": -1}, "gather_rows and gather_delay must not be below 0, got -1"),
        ({"gather_delay": -0.1}, "must not be below 0, got 0 and -0.1"),
        ({"url": "localhost"}, "has no valid host and port"),
        ({"certificate": b"-----BEGIN "}, "belong together"),
    ],
)
def test_options_that_make_no_sense_are_refused(client, options, text):
    with pytest.raises(ValueError, match=text):
        client(**options)


def options(url="host:1", **others):
    return dict(
        channel_options(parse_target(url), **{"keepalive": None, "server_name": None, "retries": True, **others})
    )


def test_only_a_fleet_is_balanced_by_the_client():
    assert "grpc.service_config" not in options("host:1")
    assert "grpc.service_config" not in options("unix:/run/conveyor.sock")
    assert "round_robin" in options("dns:///host:1")["grpc.service_config"]
    assert '"serviceName": ""' in options("ipv4:127.0.0.1:1")["grpc.service_config"]


def test_pings_only_while_calls_are_under_way():
    assert options(keepalive=330.0)["grpc.keepalive_time_ms"] == 330_000
    assert not any(name.startswith("grpc.keepalive") for name in options())
    assert "grpc.keepalive_permit_without_calls" not in options(keepalive=330.0)


def test_grpcs_own_retries_are_on_where_the_clients_are_off():
    assert options()["grpc.enable_retries"] == 0
    assert "grpc.enable_retries" not in options(retries=False)


def test_both_clients_have_the_same_calls():
    def calls(client):
        public = {name: value for name, value in vars(client).items() if not name.startswith("_")}
        return {name: inspect.signature(value) for name, value in public.items()}

    assert calls(Client) == calls(AsyncClient)
    assert {"predict", "infer", "classify", "describe", "wait_ready", "models", "close"} <= calls(Client).keys()
