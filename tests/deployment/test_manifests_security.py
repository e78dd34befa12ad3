"""The restricted profile of Kubernetes' pod security standards, and what else a container needs least."""

import re
from pathlib import Path

import pytest

CONTAINERFILE = (Path(__file__).parents[2] / "deploy" / "server.Containerfile").read_text()
USER = int(re.search(r"^USER (\d+):\1$", CONTAINERFILE, re.MULTILINE)[1])
"""The image's own: numeric, so that Kubernetes can see that it is not root."""


def in_a_bucket(container):
    return any("://" in variable["value"] for variable in container["env"])


@pytest.fixture(params=["deployment", "serving runtime"])
def containers(request, pod, serving_runtime):
    if request.param == "deployment":
        return pod["containers"] + pod.get("initContainers", [])
    return serving_runtime["spec"]["containers"]


def test_containers_keep_to_the_restricted_profile(containers):
    for container in containers:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not context.get("privileged")


def test_pods_keep_to_the_restricted_profile(pod):
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == USER
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "persistentVolumeClaim", "configMap", "secret", "projected"}


def test_the_serving_runtime_says_what_the_pod_would(serving_runtime):
    """KServe's runtime has no security context of the pod."""
    for container in serving_runtime["spec"]["containers"]:
        context = container["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"]) == (True, USER)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_namespace_enforces_the_profile(objects):
    [namespace] = objects["Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_token_of_the_api_server_reaches_a_pod(pod, objects, inference_service):
    assert pod["automountServiceAccountToken"] is False
    assert inference_service["spec"]["predictor"]["automountServiceAccountToken"] is False
    [account] = objects["ServiceAccount"]
    assert account["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == account["metadata"]["name"]


def test_only_scratch_space_and_copies_are_writable_to_the_server(container):
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable <= {"/tmp", "/cache"}


def test_every_writable_volume_has_a_limit(pod):
    for volume in pod["volumes"]:
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"]


def test_the_network_policy_opens_the_two_ports_to_whom_they_are_for(objects, container):
    [policy] = objects["NetworkPolicy"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    out = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert out == ({53, 443} if in_a_bucket(container) else set())
    opened = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    assert sorted(opened) == ["grpc", "http"]
    assert all(rule["from"] for rule in policy["spec"]["ingress"]), "a rule without `from` lets everybody in"
