import re
import ssl
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from conveyor_server.core.errors import StartError
from conveyor_server.wire.certificates import Certificates
from conveyor_server.wire.tls_material import TlsFiles, read_material
from support.certificates import CLIENT, SERVER, issue

ROOT = issue("root", authority=True)
LEAF = issue("server", ROOT)
DAY = 86400


def files(folder, server=LEAF, authority=None):
    certificate, key = server.write(folder)
    if authority is not None:
        (folder / "ca.crt").write_bytes(authority)
    return TlsFiles(certificate, key, folder / "ca.crt" if authority is not None else None)


def handshake(server, *, trusts=ROOT, client=None, protocol=None, maximum=None):
    """Connects a client in memory; returns its end and the server's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=trusts.pem.decode())
    if protocol:
        context.set_alpn_protocols([protocol])
    if maximum:
        context.maximum_version = maximum
    if client:
        context.load_cert_chain(*client)
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        context.wrap_bio(one, other, server_hostname="localhost"),
        server.wrap_bio(other, one, server_side=True),
    ]
    done = set()
    for _ in range(5):
        for end in ends:
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
    assert done == set(ends)
    # In TLS 1.3, the client learns only with the first answer that its certificate was refused.
    ends[1].write(b"hello")
    assert ends[0].read() == b"hello"
    return ends


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "RSA"],
)
def test_good_files_serve_clients_on_both_ports(tmp_path, key):
    material = read_material(files(tmp_path, issue("server", ROOT, key=key, purpose=SERVER)))
    for context, protocol in ((material.grpc, "h2"), (material.http, "http/1.1")):
        client, _ = handshake(context, protocol=protocol)
        assert client.selected_alpn_protocol() == protocol
        assert client.version() == "TLSv1.3"
    assert material.names == "DNS:localhost, IP Address:127.0.0.1"
    assert material.expires == pytest.approx(time.time() + 30 * DAY, abs=DAY)
    assert material.certificate == (tmp_path / "tls.crt").read_bytes()
    assert material.key == (tmp_path / "tls.key").read_bytes()
    assert material.client_authority is None


def test_a_chain_is_served_whole(tmp_path):
    between = issue("between", ROOT, authority=True)
    leaf = issue("server", between)
    paths = files(tmp_path, leaf)
    material = read_material(paths)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        handshake(material.grpc)
    paths.certificate.write_bytes(leaf.pem + between.pem)
    handshake(read_material(paths).grpc)


def test_text_around_the_certificates_is_no_matter(tmp_path):
    paths = files(tmp_path, authority="Bundesstraße\n".encode() + ROOT.pem)
    paths.certificate.write_bytes("# Schlüssel von Müller\n".encode() + LEAF.pem + b"\n\n# \xff\n" + ROOT.pem)
    read_material(paths)


def test_tls_1_2_has_only_what_http_2_allows_and_older_versions_are_gone(tmp_path):
    context = read_material(files(tmp_path)).grpc
    client, _ = handshake(context, maximum=ssl.TLSVersion.TLSv1_2)
    assert re.fullmatch(r"ECDHE-ECDSA-(AES\d+-GCM-SHA\d+|CHACHA20-POLY1305)", client.cipher()[0])
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_no_session_is_resumed(tmp_path):
    """A client whose authority is gone must not come back on an old one."""
    client, _ = handshake(read_material(files(tmp_path)).grpc)
    assert not client.session.has_ticket
    assert not client.session_reused


BROKEN = {
    "no certificate": (lambda f: f.certificate.unlink(), "certificate '.*tls.crt' cannot be read: No such file"),
    "no key": (lambda f: f.key.unlink(), "key '.*tls.key' cannot be read: No such file"),
    "no authority": (lambda f: f.client_authority.unlink(), "client authority '.*ca.crt' cannot be read: No such"),
    "a folder": (lambda f: (f.key.unlink(), f.key.mkdir()), "key '.*tls.key' cannot be read: Is a directory"),
    "another key": (lambda f: f.key.write_bytes(ROOT.key_pem), "key '.*tls.key' is not that of the certificate"),
    "text": (lambda f: f.certificate.write_text("hello"), "certificate '.*tls.crt' has no certificates in PEM form"),
    "empty": (lambda f: f.certificate.write_text(""), "certificate '.*tls.crt' has no certificates in PEM form"),
    "cut off": (lambda f: f.certificate.write_bytes(LEAF.pem[:-60]), "has no certificates in PEM form, or one that is"),
    "key is text": (lambda f: f.key.write_text("hello"), "key '.*tls.key' has no private key in PEM form"),
    "key is no key": (lambda f: f.key.write_bytes(LEAF.pem), "key '.*tls.key' has no private key in PEM form"),
    "encrypted key": (
        lambda f: f.key.write_bytes(LEAF.encoded_key(serialization.BestAvailableEncryption(b"secret"))),
        "key is encrypted.*openssl pkey -in KEY",
    ),
    "authority is text": (lambda f: f.client_authority.write_text("hello"), "authority '.*ca.crt' has no certificates"),
    "authority is none": (
        lambda f: f.client_authority.write_bytes(LEAF.pem),
        "has certificates, but none of an authority",
    ),
    "huge": (lambda f: f.certificate.write_bytes(LEAF.pem + b"\n" * 2**20), "is larger than 1048576 bytes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_used_are_named_with_the_reason(tmp_path, case):
    change, reason = BROKEN[case]
    paths = files(tmp_path, authority=ROOT.pem)
    read_material(paths)
    change(paths)
    with pytest.raises(StartError, match=reason):
        read_material(paths)


@pytest.mark.parametrize(
    ("days", "reason"),
    [
        ((-9, -1), "certificate '.*' expired on "),
        ((1, 9), r"certificate '.*' is not valid before .* Is the clock right\?"),
    ],
)
def test_a_certificate_must_be_valid_now(tmp_path, days, reason):
    with pytest.raises(StartError, match=reason):
        read_material(files(tmp_path, issue("server", ROOT, days=days)))


def test_a_certificate_of_a_client_is_none_of_a_server(tmp_path):
    with pytest.raises(StartError, match=r"cannot be that of a server: (unsuitable|unsupported) certificate purpose"):
        read_material(files(tmp_path, issue("server", ROOT, purpose=CLIENT)))


def test_of_several_authorities_one_must_be_valid_and_the_last_one_counts(tmp_path):
    old, new = issue("old", authority=True, days=(-9, -1)), issue("new", authority=True, days=(-1, 3))
    with pytest.raises(StartError, match=r"client authority '.*' expired on"):
        read_material(files(tmp_path, authority=old.pem))
    material = read_material(files(tmp_path, authority=old.pem + new.pem))
    assert material.expires == pytest.approx(time.time() + 3 * DAY, abs=DAY)


def test_with_an_authority_grpc_wants_a_certificate_and_http_takes_one(tmp_path):
    clients, stranger = issue("clients", authority=True), issue("strangers", authority=True)
    material = read_material(files(tmp_path, authority=clients.pem))
    good = issue("client", clients, purpose=CLIENT).write(tmp_path / "good")
    bad = {
        "stranger": issue("client", stranger).write(tmp_path / "stranger"),
        "expired": issue("client", clients, days=(-9, -1)).write(tmp_path / "expired"),
        "server's": issue("client", clients, purpose=SERVER).write(tmp_path / "server"),
    }
    for context in (material.grpc, material.http):
        _, server = handshake(context, client=good)
        assert server.getpeercert()["subject"] == ((("commonName", "client"),),)
        for wrong in bad.values():
            with pytest.raises(ssl.SSLError):
                handshake(context, client=wrong)
    _, server = handshake(material.http)
    assert not server.getpeercert()
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake(material.grpc)


def test_new_connections_get_the_newest_certificate_from_the_same_context(tmp_path):
    certificates = Certificates(files(tmp_path))
    other = issue("other", authority=True)
    for context in (certificates.grpc_context, certificates.http_context):
        assert isinstance(context, ssl.SSLContext), "servers ask"
        handshake(context)
    issue("server", other).write(tmp_path)
    assert certificates.files.look()
    for context in (certificates.grpc_context, certificates.http_context):
        handshake(context, trusts=other)
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(context, trusts=ROOT)


def test_an_authority_that_is_taken_out_lets_nobody_in_any_more(tmp_path):
    """Contexts can only be given more authorities: so there must be a new one."""
    old, new = issue("old", authority=True), issue("new", authority=True)
    certificates = Certificates(files(tmp_path, authority=old.pem + new.pem))
    clients = {
        issuer: issue("client", issuer_).write(tmp_path / issuer) for issuer, issuer_ in (("old", old), ("new", new))
    }
    for client in clients.values():
        handshake(certificates.grpc_context, client=client)
    files(tmp_path, authority=new.pem)
    assert certificates.files.look()
    handshake(certificates.grpc_context, client=clients["new"])
    with pytest.raises(ssl.SSLError):
        handshake(certificates.grpc_context, client=clients["old"])


def test_a_broken_certificate_leaves_the_old_one_in_use(tmp_path, caplog):
    paths = files(tmp_path)
    certificates = Certificates(paths)
    paths.key.write_bytes(ROOT.key_pem)
    for _ in range(4):
        assert not certificates.files.look()
    handshake(certificates.grpc_context)
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "what was read before stays in use. The TLS key" in caplog.text


def test_the_log_says_whom_it_is_for_until_when_and_what_is_wrong(tmp_path, caplog):
    caplog.set_level("INFO")
    Certificates(files(tmp_path / "good"))
    assert re.search(r"TLS certificate: for DNS:localhost, IP Address:127.0.0.1, until 20\S+\+00:00\.", caplog.text)
    assert "WARNING" not in caplog.text
    Certificates(files(tmp_path / "short", issue("server", ROOT, days=(-1, 2))))
    assert re.search(r"expires in (1\.9|2\.0) days", caplog.text)
    Certificates(files(tmp_path / "odd", issue("server", ROOT, key=ed25519.Ed25519PrivateKey.generate())))
    assert "of the kind Ed25519" in caplog.text


def test_the_files_are_followed_through_the_links_of_a_secret(tmp_path):
    """As Kubernetes mounts it: tls.crt → ..data/tls.crt, and ..data is renamed over when the secret changes."""
    second = issue("second", authority=True)
    for name, identity in (("..1", LEAF), ("..2", issue("server", second))):
        identity.write(tmp_path / name)
    (tmp_path / "..data").symlink_to("..1")
    paths = [tmp_path / name for name in ("tls.crt", "tls.key")]
    for path in paths:
        path.symlink_to(f"..data/{path.name}")
    certificates = Certificates(TlsFiles(*paths))
    handshake(certificates.grpc_context)
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    assert certificates.files.look()
    handshake(certificates.grpc_context, trusts=second)
