"""The components for TLS and tokens, with a real server for the pod and real files for the secrets."""

import hashlib
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
import yaml

from conveyor_server.exposure import exposure_warning
from conveyor_server.settings import Settings, describe_settings
from support.certificates import issue
from support.onnx_models import classifier, save
from support.processes import ServerProcess

DEPLOY = Path(__file__).parents[2] / "deploy"
BOTH = "cpu with TLS and tokens"
TLS_ONLY = "cpu without monitoring, with TLS"
METADATA = "/inference.GRPCInferenceService/ServerMetadata"
TOKEN = "conveyor_for-prometheus"
OF_THE_PLACE = {"CONVEYOR_HOST", "CONVEYOR_REPOSITORY", "CONVEYOR_LAME_DUCK_SECONDS"}
FIELDS = {setting.variable: name for setting, name in zip(describe_settings(), Settings.__annotations__, strict=True)}


def pod_of(objects):
    [deployment] = [thing for thing in objects if thing["kind"] == "Deployment"]
    return deployment["spec"]["template"]["spec"]


def variables(container):
    return {variable["name"]: variable["value"] for variable in container["env"]}


def endpoint_of(objects):
    [monitor] = [thing for thing in objects if thing["kind"] == "ServiceMonitor"]
    [endpoint] = monitor["spec"]["endpoints"]
    return endpoint


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """What the cluster would hold: files by secret."""
    root = tmp_path_factory.mktemp("secrets")
    authority = issue("root", authority=True)
    issue("conveyor", authority).write(root / "conveyor-tls")
    (root / "conveyor-tls" / "ca.crt").write_bytes(authority.pem)
    (root / "conveyor-tokens").mkdir()
    line = f"prometheus read sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n"
    (root / "conveyor-tokens" / "tokens").write_text(line)
    return root


@pytest.fixture(scope="module", params=[BOTH, TLS_ONLY])
def running(request, installations, secrets, tmp_path_factory):
    """The objects of an installation, and a server with the variables of its pod."""
    objects = installations[request.param]
    pod = pod_of(objects)
    [container] = pod["containers"]
    folders = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    places = {m["mountPath"]: folders[m["name"]] for m in container["volumeMounts"] if m["name"] in folders}
    environment = {name: value for name, value in variables(container).items() if name not in OF_THE_PLACE}
    for name, value in environment.items():
        for place, secret in places.items():
            if value.startswith(f"{place}/"):
                environment[name] = str(secrets / secret / value.removeprefix(f"{place}/"))
    repository = tmp_path_factory.mktemp("models")
    save(classifier(), repository, "digits")
    with ServerProcess(repository, environment=environment) as server:
        yield objects, server


def get(server, path, context, token=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(server.http_url.replace("http:", "https:") + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def unverified():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_the_probes_of_the_kubelet_pass_which_verifies_nothing_and_has_no_token(running):
    objects, server = running
    [container] = pod_of(objects)["containers"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[name]
        assert "grpc" not in probe, "those of the kubelet know no TLS"
        assert (probe["httpGet"]["scheme"], probe["httpGet"]["port"]) == ("HTTPS", "http")
        assert get(server, probe["httpGet"]["path"], unverified()) == 200


def test_clients_verify_the_certificate_of_the_secret(running, secrets):
    objects, server = running
    authority = (secrets / "conveyor-tls" / "ca.crt").read_bytes()
    with grpc.secure_channel(server.grpc_url, grpc.ssl_channel_credentials(authority)) as channel:
        channel.unary_unary(METADATA)(b"", timeout=30, metadata=(("authorization", f"Bearer {TOKEN}"),))
        if "CONVEYOR_TOKENS" in variables(pod_of(objects)["containers"][0]):
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                channel.unary_unary(METADATA)(b"", timeout=30)


def test_prometheus_is_told_how_to_get_in(installations, running, secrets):
    objects, server = running
    if objects is not installations[BOTH]:
        assert not [thing for thing in objects if thing["kind"] == "ServiceMonitor"]
        return
    endpoint = endpoint_of(objects)
    assert endpoint["scheme"] == "https"
    secret = endpoint["tlsConfig"]["ca"]["secret"]
    context = ssl.create_default_context(cafile=secrets / secret["name"] / secret["key"])
    assert get(server, endpoint["path"], context) == 401
    assert endpoint["authorization"]["credentials"]["name"] not in str(pod_of(objects)), "a token is not for the server"
    assert get(server, endpoint["path"], context, TOKEN) == 200


def test_the_health_check_of_the_image_passes(running):
    _, server = running
    environment = {"CONVEYOR_TLS_CERTIFICATE": "set", "CONVEYOR_HTTP_PORT": server.http_url.rsplit(":", 1)[1]}
    text = (DEPLOY / "server.Containerfile").read_text()
    assert 'CMD ["/opt/conveyor/bin/python", "-m", "conveyor_server.ready_probe"]' in text
    command = [sys.executable, "-m", "conveyor_server.ready_probe"]
    done = subprocess.run(command, env={**os.environ, **environment}, timeout=60, check=False)
    assert done.returncode == 0
    environment.pop("CONVEYOR_TLS_CERTIFICATE")  # asks without TLS, and is not answered
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"/readyz: " in done.stderr


def test_secrets_are_mounted_as_folders_so_that_changes_arrive(installations):
    pod = pod_of(installations[BOTH])
    [container] = pod["containers"]
    for volume in pod["volumes"]:
        if "secret" in volume:
            [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == volume["name"]]
            assert "subPath" not in mount
            assert mount["readOnly"]
            assert volume["secret"]["defaultMode"] == 0o440
            assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def test_no_service_says_that_the_port_is_in_the_clear(installations):
    for name, protocol in (("cpu", "kubernetes.io/h2c"), (BOTH, "https")):
        services = [thing for thing in installations[name] if thing["kind"] == "Service"]
        ports = [port for service in services for port in service["spec"]["ports"] if port["name"] == "grpc"]
        assert len(ports) == 2
        assert {port["appProtocol"] for port in ports} == {protocol}


def test_no_manifest_makes_the_server_warn_of_itself(installations, serving_runtime):
    """Each says that its network is trusted, and why; where there is TLS, it says so no longer."""
    given = {
        name: variables(pod_of(objects)["containers"][0]) for name, objects in installations.items() if name != "kserve"
    }
    arguments = dict(argument.split("=", 1) for argument in serving_runtime["spec"]["containers"][0]["args"])
    by_flag = {setting.flag: setting.variable for setting in describe_settings()}
    given["kserve"] = {by_flag[flag]: value for flag, value in arguments.items()}
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["conveyor"]["environment"]
    given["compose"] = {"CONVEYOR_HOST": "0.0.0.0", **{name: str(value) for name, value in compose.items()}}
    for name, values in given.items():
        known = ("CONVEYOR_HOST", "CONVEYOR_TLS_CERTIFICATE", "CONVEYOR_TLS_KEY", "CONVEYOR_TOKENS")
        settings = {FIELDS[variable]: values[variable] for variable in known if variable in values}
        settings["insecure"] = values.get("CONVEYOR_INSECURE") == "true"
        assert settings["host"] == "0.0.0.0", name
        assert settings["insecure"] != ("tls_certificate" in settings), name
        assert exposure_warning(Settings(**settings)) == "", name


def test_the_image_alone_warns_because_nobody_has_said_where_it_runs():
    text = (DEPLOY / "server.Containerfile").read_text()
    assert "CONVEYOR_HOST=0.0.0.0" in text
    assert "CONVEYOR_INSECURE=" not in text
