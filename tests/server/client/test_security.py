import pytest

from conveyor_server.client import AsyncClient, Client
from conveyor_server.client.security import Certificates, authorization, read_certificates
from conveyor_server.client.target import parse_target

PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
HERE, THERE = parse_target("localhost:1"), parse_target("models.example.com:1")


def test_certificates_are_content_or_files_and_mean_tls(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_bytes(PEM)
    assert read_certificates(None, None, None, None) is None
    assert read_certificates(False, None, None, None) is None
    assert read_certificates(True, None, None, None) == Certificates()
    assert read_certificates(None, file, None, None) == Certificates(root=PEM)
    assert read_certificates(None, str(file), PEM, PEM) == Certificates(PEM, PEM, PEM)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((False, PEM, None, None), "root_certificates and tls=False contradict each other"),
        ((None, None, PEM, None), "`certificate` and `key` belong together"),
        ((True, None, None, PEM), "`certificate` and `key` belong together"),
        ((True, "nowhere.pem", None, None), "`root_certificates` 'nowhere.pem' cannot be read: No such file"),
        ((True, b"DER", None, None), "`root_certificates` is not in PEM form"),
    ],
)
def test_what_cannot_be_a_secure_connection_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        read_certificates(*options)


def test_a_token_goes_along_with_each_call():
    assert authorization(None, THERE, encrypted=False, insecure=False)() == ()
    tokens = iter(["one", "two\n"])
    headers = authorization(lambda: next(tokens), THERE, encrypted=True, insecure=False)
    assert [headers(), headers()] == [(("authorization", "Bearer one"),), (("authorization", "Bearer two"),)]


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_token_is_not_shown_to_a_network(client):
    with pytest.raises(ValueError, match="would see the token") as caught:
        client("models.example.com:1", token="secret")
    assert "secret" not in str(caught.value)
    AsyncClient("models.example.com:1", token="secret", insecure_token=True)
    AsyncClient("models.example.com:1", token="secret", tls=True)
    AsyncClient("unix:/run/conveyor.sock", token="secret")
    AsyncClient("[::1]:1", token="secret")


@pytest.mark.parametrize("token", ["", " \n", "two words", "line\nbreak", "grüße", "a\x00b"])
def test_what_cannot_stand_in_a_header_is_refused_and_not_repeated(token):
    with pytest.raises(ValueError, match="cannot stand in a header") as caught:
        authorization(token, HERE, encrypted=False, insecure=False)
    assert not token.strip() or token not in str(caught.value)
