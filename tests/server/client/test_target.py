import pytest

from conveyor_server.client.target import parse_target


@pytest.mark.parametrize(
    ("url", "hosts", "fleet", "local"),
    [
        ("127.0.0.1:8001", ("127.0.0.1",), False, True),
        ("localhost:8001", ("localhost",), False, True),
        ("[::1]:8001", ("::1",), False, True),
        ("models.example.com:443", ("models.example.com",), False, False),
        ("dns:8001", ("dns",), False, False),  # a host of that name
        ("10.0.0.1:8001", ("10.0.0.1",), False, False),
        ("dns:///models:8001", ("models",), True, False),
        ("dns://8.8.8.8/models:8001", ("models",), True, False),
        ("dns:models:8001", ("models",), True, False),
        ("dns:///localhost:8001", ("localhost",), True, True),
        ("ipv4:127.0.0.1:1,127.0.0.2:2", ("127.0.0.1", "127.0.0.2"), True, True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", ("127.0.0.1", "10.0.0.1"), True, False),
        ("ipv6:[::1]:1,[fe80::1%25eth0]:2", ("::1", "fe80::1%eth0"), True, False),
        ("unix:/run/conveyor.sock", (), False, True),
        ("unix:///run/conveyor.sock", (), False, True),
        ("unix-abstract:conveyor", (), False, True),
    ],
)
def test_forms(url, hosts, fleet, local):
    target = parse_target(url)
    assert (target.text, target.hosts, target.fleet, target.local) == (url, hosts, fleet, local)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://localhost:8001", "leave out 'http://'"),
        ("grpcs://localhost:8001", "TLS is an option of its own"),
        ("localhost", "the port is usually 8001"),
        ("localhost:", "has no valid host and port"),
        ("localhost:http", "has no valid host and port"),
        ("localhost:0", "has no valid host and port"),
        ("localhost:65536", "has no valid host and port"),
        (":8001", "has no valid host and port"),
        ("", "has no valid host and port"),
        ("::1:8001", "stands in brackets"),
        ("dns:///models", "has no valid host and port"),
        ("ipv4:127.0.0.1:1,", "has no valid host and port"),
        ("unix:", "names no socket"),
        ("unix:///", "names no socket"),
        ("xds:///models", "has no valid host and port"),
    ],
)
def test_what_is_no_address_is_refused_with_what_would_be_one(url, text):
    with pytest.raises(ValueError, match=text) as caught:
        parse_target(url)
    assert "Expected" in str(caught.value)
