"""TLS and mutual TLS of a real server, with real clients and certificates made on the spot."""

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton

from support.certificates import CLIENT, SERVER, issue
from support.fleet import RETRY_POLICY, Load, question
from support.onnx_models import classifier, predict_classifier, save
from support.processes import ServerProcess
from support.relay import Relay

ROOT, CLIENTS, STRANGERS = (issue(name, authority=True) for name in ("servers", "clients", "strangers"))
IMAGES = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
READY = "/inference.GRPCInferenceService/ServerReady"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(classifier(seed=1), root, "digits")
    return root


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with all certificates; paths by name."""
    folder = tmp_path_factory.mktemp("certificates")
    identities = {
        "server": issue("server", ROOT, purpose=SERVER),
        "client": issue("client", CLIENTS, purpose=CLIENT),
        "stranger": issue("client", STRANGERS, purpose=CLIENT),
        "expired": issue("client", CLIENTS, purpose=CLIENT, days=(-9, -1)),
    }
    found = {name: identity.write(folder / name) for name, identity in identities.items()}
    for name, authority in (("root", ROOT), ("clients", CLIENTS)):
        (folder / name).write_bytes(authority.pem)
        found[name] = (folder / name,)
    return {name: [str(path) for path in paths] for name, paths in found.items()}


def tls_flags(files):
    return ["--tls-certificate", files["server"][0], "--tls-key", files["server"][1]]


@pytest.fixture(scope="module")
def tls(transport, repository, files):
    with ServerProcess(repository, *tls_flags(files)) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(transport, repository, files):
    with ServerProcess(repository, *tls_flags(files), "--tls-client-authority", files["clients"][0]) as server:
        yield server


def credentials(root=ROOT, files=None):
    """Of a client that trusts an authority, and may have a certificate itself."""
    certificate, key = (open_(path) for path in files) if files else (None, None)
    return grpc.ssl_channel_credentials(root.pem, key, certificate)


def open_(path):
    with open(path, "rb") as file:
        return file.read()


def code(url, credentials=None):
    """How a call ends."""
    make = grpc.insecure_channel(url) if credentials is None else grpc.secure_channel(url, credentials)
    with make as channel:
        try:
            channel.unary_unary(READY)(b"", timeout=20)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def get(server, path, root=ROOT, files=None):
    """Status and body over HTTPS."""
    context = ssl.create_default_context(cadata=root.pem.decode())
    if files:
        context.load_cert_chain(*files)
    url = server.http_url.replace("http:", "https:") + path
    try:
        with urllib.request.urlopen(url, timeout=30, context=context) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def image_input():
    tensor = triton.InferInput("image", list(IMAGES.shape), "FP32")
    tensor.set_data_from_numpy(IMAGES)
    return tensor


def test_clients_that_trust_the_authority_are_served(tls, files):
    assert code(tls.grpc_url, credentials()) == "OK"
    with triton.InferenceServerClient(tls.grpc_url, ssl=True, root_certificates=files["root"][0]) as client:
        answer = client.infer("digits", [image_input()], client_timeout=30).as_numpy("probabilities")
    np.testing.assert_allclose(answer, predict_classifier(IMAGES, seed=1), atol=1e-5)


def test_http_is_served_with_the_same_certificate(tls):
    assert get(tls, "/readyz") == (200, "ready\n")
    assert "conveyor_model_ready" in get(tls, "/metrics")[1]


def test_who_trusts_another_authority_or_none_is_not_served(tls):
    assert code(tls.grpc_url, credentials(STRANGERS)) == "UNAVAILABLE"
    assert code(tls.grpc_url) == "UNAVAILABLE", "a client without TLS"
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        get(tls, "/healthz", STRANGERS)
    with pytest.raises(OSError, match=r"reset|closed|Remote"):
        urllib.request.urlopen(tls.http_url + "/healthz", timeout=30)
    assert code(tls.grpc_url, credentials()) == "OK"
    assert get(tls, "/healthz") == (200, "ok\n")
    assert "Traceback" not in "\n".join(tls.log)


def test_a_client_of_tls_at_a_server_without_it(repository):
    with ServerProcess(repository) as server:
        assert code(server.grpc_url, credentials()) == "UNAVAILABLE"
        with pytest.raises(urllib.error.URLError):
            get(server, "/healthz")
        assert code(server.grpc_url) == "OK"


def test_the_connection_is_agreed_to_be_http_2(tls):
    host, port = tls.grpc_url.split(":")
    context = ssl.create_default_context(cadata=ROOT.pem.decode())
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        assert connection.selected_alpn_protocol() == "h2"


def test_with_mutual_tls_only_certificates_of_the_authority_are_let_in(mutual, files):
    assert code(mutual.grpc_url, credentials(files=files["client"])) == "OK"
    for wrong in (None, files["stranger"], files["expired"]):
        assert code(mutual.grpc_url, credentials(files=wrong)) == "UNAVAILABLE"
    certificate, key = files["client"]
    keys = {"root_certificates": files["root"][0], "private_key": key, "certificate_chain": certificate}
    with triton.InferenceServerClient(mutual.grpc_url, ssl=True, **keys) as client:
        assert client.is_model_ready("digits")


def test_with_mutual_tls_probes_need_no_certificate_and_prometheus_does(mutual, files):
    assert get(mutual, "/healthz") == (200, "ok\n")
    assert get(mutual, "/readyz") == (200, "ready\n")
    assert get(mutual, "/metrics") == (403, "A client certificate is needed here.\n")
    assert get(mutual, "/metrics", files=files["client"])[0] == 200
    for wrong in (files["stranger"], files["expired"]):
        with pytest.raises(OSError, match=r"(?i)ssl|reset|broken|closed"):
            get(mutual, "/metrics", files=wrong)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--tls-certificate", "{server}"], "--tls-certificate and --tls-key come together"),
        (["--tls-client-authority", "{server}"], "--tls-client-authority needs --tls-certificate"),
        (["--tls-certificate", "nowhere", "--tls-key", "{key}"], "certificate 'nowhere' cannot be read: No such file"),
        (["--tls-certificate", "{server}", "--tls-key", "{other}"], "is not that of the certificate"),
        (["--tls-certificate", "{expired}", "--tls-key", "{expired_key}"], "cannot be that of a server"),
        (["--tls-certificate", "{key}", "--tls-key", "{key}"], "has no certificates in PEM form"),
        (["--tokens", "nowhere"], "The file of tokens cannot be read"),
    ],
)
def test_what_cannot_be_used_is_a_clear_end(repository, files, flags, reason):
    names = {"server": files["server"][0], "key": files["server"][1], "other": files["client"][1]}
    names |= {"expired": files["expired"][0], "expired_key": files["expired"][1]}
    command = [sys.executable, "-m", "conveyor_server", "--repository", str(repository), "--grpc-port", "0"]
    command += ["--http-port", "0", *(flag.format_map(names) for flag in flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("conveyor-server: ")
    assert reason in line


async def seen_certificate(url):
    """What a new connection gets."""
    host, port = url.split(":")
    return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=30)


async def until(what, wanted):
    async with asyncio.timeout(60):
        while True:
            if await what() == wanted:
                return
            await asyncio.sleep(0.05)


async def test_certificates_are_changed_under_load_and_nobody_notices(repository, tmp_path):
    """Clients trust the old authority and the new one, and connect anew all the time."""
    new_root = issue("new servers", authority=True)
    first, second = issue("server", ROOT), issue("server", new_root)
    certificate, key = first.write(tmp_path)
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key), "--max-connection-age-seconds", "0.3"]
    trusted = grpc.ssl_channel_credentials(ROOT.pem + new_root.pem)
    with ServerProcess(repository, *flags) as server:
        async with Relay(server.grpc_url) as relay:
            options = [("grpc.service_config", json.dumps(RETRY_POLICY))]
            channel = grpc.aio.secure_channel(relay.url, trusted, options=options)
            async with Load("TLS", channel, [question("digits", IMAGES)], clients=4) as load:
                for identity in (second, first, second):
                    seen, sent = relay.connections, load.sent
                    identity.write(tmp_path)
                    await until(lambda: seen_certificate(server.grpc_url), identity.pem.decode())
                    http = server.http_url.removeprefix("http://")
                    await until(lambda: seen_certificate(http), identity.pem.decode())  # noqa: B023
                    while relay.connections < seen + 2:
                        await load.progress(20)
                    assert load.sent > sent
                key.write_text("broken")
                await asyncio.to_thread(server.wait_for, "what was read before stays in use")
                await load.progress(50)
                assert await seen_certificate(server.grpc_url) == second.pem.decode()
            print("\n" + load.report("three changes of the certificate", f", {relay.connections} connections"))
        server.signal(signal.SIGINT)
        assert await asyncio.to_thread(server.exit_code) == 0
    assert load.failures == []
    assert sum("what was read before stays" in line for line in server.log) == 1


async def test_a_client_authority_that_is_taken_out_keeps_its_clients_out(repository, tmp_path, files):
    authority = tmp_path / "authorities"
    authority.write_bytes(CLIENTS.pem + STRANGERS.pem)
    flags = [*tls_flags(files), "--tls-client-authority", str(authority)]
    with ServerProcess(repository, *flags) as server:
        stranger = credentials(files=files["stranger"])
        assert await asyncio.to_thread(code, server.grpc_url, stranger) == "OK"
        authority.write_bytes(CLIENTS.pem)
        await until(lambda: asyncio.to_thread(code, server.grpc_url, stranger), "UNAVAILABLE")
        assert await asyncio.to_thread(code, server.grpc_url, credentials(files=files["client"])) == "OK"
