import resource

import pytest

from conveyor_server.exposure import allow_connections, exposure_warning
from conveyor_server.settings import Settings

TLS = {"tls_certificate": "c", "tls_key": "k"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_who_listens_for_this_machine_only_is_not_warned(host):
    assert exposure_warning(Settings(host=host)) == ""


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "10.0.0.1", "fe80::1%eth0", "server.example", "localhost.example"]
)
def test_who_listens_for_others_without_tls_is_told_what_to_do(host):
    text = exposure_warning(Settings(host=host))
    assert text.startswith(f"Listening on {host} without TLS: whoever reaches the ports may ask for anything.")
    assert all(flag in text for flag in ("--tls-certificate", "--tls-key", "--tokens", "--insecure"))
    assert exposure_warning(Settings(host=host, insecure=True)) == ""
    assert exposure_warning(Settings(host=host, **TLS)) == ""


def test_tokens_are_not_enough_because_they_can_be_read_on_the_way():
    assert "can read the tokens that are sent" in exposure_warning(Settings(host="0.0.0.0", tokens="file"))


@pytest.fixture
def limits():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_each_connection_may_have_a_file(limits):
    soft, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    assert allow_connections(600) == ""
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (856, hard)
    assert allow_connections(10) == "", "there are enough"
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (856, hard)


def test_more_than_the_system_allows_is_said(limits):
    _, hard = limits
    text = allow_connections(hard)
    assert text.startswith(f"The system allows {hard} open files, too few for {hard} connections.")
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
