"""Whatever the manifests say of the server must be there: settings, ports, probes, metrics. Asked of a real server."""

import re
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import conveyor_server
from conveyor_server.settings import Settings, describe_settings
from support.onnx_models import classifier, save
from support.processes import ServerProcess

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTINGS = {setting.variable: setting for setting in describe_settings()}
FLAGS = {setting.flag for setting in SETTINGS.values()}
OF_THE_PLACE = {"--repository", "--host", "--grpc-port", "--http-port", "--lame-duck-seconds"}
"""What a test on loopback sets itself."""


def environment(container):
    return {variable["name"]: variable["value"] for variable in container.get("env", [])}


def flags(container):
    return dict(argument.split("=", 1) for argument in container.get("args", []))


def settings_of(container):
    """What a container sets, by flag."""
    return {SETTINGS[name].flag: value for name, value in environment(container).items()} | flags(container)


def value_of(container, flag):
    default = next(setting.default for setting in SETTINGS.values() if setting.flag == flag)
    return settings_of(container).get(flag, default)


def metric_names(text):
    return set(re.findall(r"\bconveyor_[a-z_]+", text))


@pytest.fixture(params=["deployment", "serving runtime"])
def any_container(request, container, serving_runtime):
    return container if request.param == "deployment" else serving_runtime["spec"]["containers"][0]


@pytest.fixture(scope="module", params=["cpu", "kserve"])
def served(request, installations, tmp_path_factory):
    """A container and a server that runs with its settings."""
    kind = {"cpu": "Deployment", "kserve": "ServingRuntime"}[request.param]
    [thing] = [thing for thing in installations[request.param] if thing["kind"] == kind]
    container = (thing["spec"] if kind == "ServingRuntime" else thing["spec"]["template"]["spec"])["containers"][0]
    repository = tmp_path_factory.mktemp("models")
    save(classifier(), repository, "digits")
    given = [f"{flag}={value}" for flag, value in flags(container).items() if flag not in OF_THE_PLACE]
    settings = {k: v for k, v in environment(container).items() if SETTINGS[k].flag not in OF_THE_PLACE}
    with ServerProcess(repository, *given, environment=settings) as server:
        yield container, server


def test_every_variable_and_flag_is_a_setting(any_container):
    assert environment(any_container).keys() <= SETTINGS.keys()
    assert flags(any_container).keys() <= FLAGS
    assert environment(any_container) or flags(any_container)


def test_the_ports_are_those_that_the_server_listens_on(any_container):
    declared = {port["containerPort"] for port in any_container["ports"]}
    listens = {int(value_of(any_container, flag)) for flag in ("--grpc-port", "--http-port")}
    assert listens == {8001, 8000}
    assert declared <= listens
    assert value_of(any_container, "--host") == "0.0.0.0", "the address of the pod must be among them"


def test_the_server_starts_with_these_settings_and_passes_the_probes(served):
    container, server = served
    probes = [container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in container]
    ports = {port.get("name"): port["containerPort"] for port in container["ports"]}
    assert len(probes) >= 2
    with grpc.insecure_channel(server.grpc_url) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for probe in probes:
            if "grpc" in probe:
                assert str(probe["grpc"]["port"]) == value_of(container, "--grpc-port")
                request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
                assert health.Check(request, timeout=30).status == health_pb2.HealthCheckResponse.SERVING
            else:
                port = probe["httpGet"]["port"]
                assert str(ports.get(port, port)) == value_of(container, "--http-port")
                with urllib.request.urlopen(server.http_url + probe["httpGet"]["path"], timeout=30) as answer:
                    assert answer.status == 200


def test_every_metric_that_scales_or_is_scraped_exists(served, installations, adapter_rules):
    _, server = served
    with urllib.request.urlopen(server.http_url + "/metrics", timeout=30) as page:
        there = set(re.findall(r"^(conveyor_[a-z_]+)", page.read().decode(), re.MULTILINE))
    asked = {name for rule in adapter_rules for name in metric_names(rule["seriesQuery"])}
    for thing in installations["cpu with KEDA"]:
        if thing["kind"] == "ScaledObject":
            queries = [trigger["metadata"].get("query", "") for trigger in thing["spec"]["triggers"]]
            asked |= {name for query in queries for name in metric_names(query)}
    assert asked
    assert asked <= there


def test_the_metrics_page_is_where_prometheus_is_sent(served, installations):
    _, server = served
    [monitor] = [thing for thing in installations["cpu"] if thing["kind"] == "ServiceMonitor"]
    [runtime] = [thing for thing in installations["kserve"] if thing["kind"] == "ServingRuntime"]
    annotations = runtime["spec"]["annotations"]
    paths = {endpoint["path"] for endpoint in monitor["spec"]["endpoints"]} | {annotations["prometheus.kserve.io/path"]}
    for path in paths:
        with urllib.request.urlopen(server.http_url + path, timeout=30) as page:
            assert b"conveyor_queue_rows" in page.read()
    assert annotations["prometheus.kserve.io/port"] == value_of(runtime["spec"]["containers"][0], "--http-port")


def test_the_autoscaler_asks_for_what_the_adapter_offers(objects, adapter_rules):
    offered = set()
    for rule in adapter_rules:
        [series] = metric_names(rule["seriesQuery"])
        offered.add(re.sub(rule["name"]["matches"], rule["name"]["as"], series))
    for autoscaler in objects.get("HorizontalPodAutoscaler", []):
        asked = {metric["pods"]["metric"]["name"] for metric in autoscaler["spec"]["metrics"] if "pods" in metric}
        assert "conveyor_queue_rows" in asked
        assert asked <= offered


def test_queries_of_keda_are_of_the_namespace(installations):
    [scaled] = [thing for thing in installations["cpu with KEDA"] if thing["kind"] == "ScaledObject"]
    queries = [
        trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"] if trigger["type"] == "prometheus"
    ]
    assert queries
    for query in queries:
        assert re.findall(r'namespace="([^"]+)"', query) == [scaled["metadata"]["namespace"]]


def test_every_installation_scales_in_exactly_one_way(objects, deployment):
    scalers = objects.get("HorizontalPodAutoscaler", []) + objects.get("ScaledObject", [])
    [scaler] = scalers
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"], "applying the files again would undo what the autoscaler did"


def test_selectors_find_the_pods(objects, deployment):
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [service["spec"]["selector"] for service in objects["Service"]]
    for kind in ("Deployment", "PodDisruptionBudget"):
        selectors += [thing["spec"]["selector"]["matchLabels"] for thing in objects[kind]]
    selectors += [policy["spec"]["podSelector"]["matchLabels"] for policy in objects["NetworkPolicy"]]
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    selectors += [constraint["labelSelector"]["matchLabels"] for constraint in spread]
    assert all(selector.items() <= labels for selector in selectors)


def test_services_monitors_and_policies_name_ports_that_exist(objects, container):
    named = {port["name"] for port in container["ports"]}
    for service in objects["Service"]:
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
        numbers = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert all(port["port"] == numbers[port["targetPort"]] for port in service["spec"]["ports"])
    for policy in objects["NetworkPolicy"]:
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= named
    for monitor in objects.get("ServiceMonitor", []):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        [watched] = [service for service in objects["Service"] if wanted <= service["metadata"]["labels"].items()]
        offered = {port["name"] for port in watched["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= offered


def test_one_service_has_the_addresses_of_all_replicas(objects):
    headless = [service for service in objects["Service"] if service["spec"].get("clusterIP") == "None"]
    assert len(headless) == 1
    assert not headless[0]["spec"].get("publishNotReadyAddresses"), "a replica that is not ready gets no requests"
    ports = {port["name"]: port["port"] for port in headless[0]["spec"]["ports"]}
    envoy = f"address: {headless[0]['metadata']['name']}, port_value: {ports['grpc']}"
    assert envoy in (DEPLOY / "envoy.yaml").read_text(), "the shipped balancer asks for this name"


def test_no_service_makes_a_variable_that_is_a_setting(pod, inference_service):
    """Kubernetes tells pods of Services by variables: one named `conveyor-grpc` would set CONVEYOR_GRPC_PORT."""
    assert pod["enableServiceLinks"] is False
    assert inference_service["spec"]["predictor"]["enableServiceLinks"] is False
    assert "CONVEYOR_GRPC_PORT" in SETTINGS


def test_mounts_have_volumes_and_models_are_where_the_server_looks(pod, container):
    volumes = {volume["name"] for volume in pod["volumes"]}
    for each in pod["containers"] + pod.get("initContainers", []):
        assert {mount["name"] for mount in each["volumeMounts"]} <= volumes
    repository, cache = (value_of(container, flag) for flag in ("--repository", "--repository-cache"))
    where = cache if "://" in repository else repository
    assert where in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_serving_runtime_looks_where_kserve_puts_models(serving_runtime, inference_service):
    [container] = serving_runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert value_of(container, "--repository") == "/mnt/models"
    assert [port["name"] for port in container["ports"]] == ["h2c"], "Knative takes one port, and this name for gRPC"
    model = inference_service["spec"]["predictor"]["model"]
    assert model["runtime"] == serving_runtime["metadata"]["name"]
    assert model["protocolVersion"] in serving_runtime["spec"]["protocolVersions"]
    formats = {entry["name"] for entry in serving_runtime["spec"]["supportedModelFormats"]}
    assert model["modelFormat"]["name"] in formats
    assert serving_runtime["spec"]["multiModel"] is False


def test_each_overlay_takes_its_own_execution_provider(installations):
    for name, provider in (("cpu", "cpu"), ("gpu", "cuda")):
        [deployment] = [thing for thing in installations[name] if thing["kind"] == "Deployment"]
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        assert value_of(container, "--execution-provider") == provider
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (provider == "cuda")


def test_the_image_starts_the_server_and_offers_its_ports(container):
    text = (DEPLOY / "server.Containerfile").read_text()
    assert re.search(r'^ENTRYPOINT \["\S*/conveyor-server"\]$', text, re.MULTILINE)
    assert "command" not in container, "the image's own entry point"
    exposed = set(re.search(r"^EXPOSE (.+)$", text, re.MULTILINE)[1].split())
    assert {str(port["containerPort"]) for port in container["ports"]} <= exposed


def test_images_carry_the_version_of_the_server(container, serving_runtime):
    for each in (container, serving_runtime["spec"]["containers"][0]):
        assert re.fullmatch(rf"\S+/conveyor-server:{re.escape(conveyor_server.__version__)}(-gpu)?", each["image"])


def test_the_settings_do_not_contradict_each_other(any_container):
    """Settings checks itself; the numbers must also be numbers."""
    given = {flag.removeprefix("--").replace("-", "_"): value for flag, value in settings_of(any_container).items()}
    numbers = {name: type(getattr(Settings(), name))(value) for name, value in given.items() if value.isdigit()}
    assert Settings(**numbers)
