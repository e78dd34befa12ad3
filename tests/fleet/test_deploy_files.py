"""The files in deploy/ agree with the server, with the locked versions and with each other."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from conveyor_server.settings import Settings, describe_settings
from support.balancers import DEPLOY, envoy
from support.fleet_loads import SMALL, through

ROOT = DEPLOY.parent
DIRECT = {
    "requirements-cpu.lock": ("server", ["cpu", "s3", "otel"]),
    "requirements-gpu.lock": ("server", ["gpu", "s3", "otel"]),
    "requirements-exporter.lock": ("exporter", ["cpu"]),
}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text):
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)}


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text())


@pytest.mark.parametrize("lock", [*DIRECT, "requirements-build.lock"])
def test_locks_are_in_step_with_the_constraints(lock):
    text = (DEPLOY / lock).read_text()
    locked = pins(text)
    wrong = {name: (version, CONSTRAINTS[name]) for name, version in locked.items() if name in CONSTRAINTS}
    assert {name: pair for name, pair in wrong.items() if pair[0] != pair[1]} == {}, "run: python deploy/lock.py"
    for requirement in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), requirement
    assert not re.search(r"https?://|file:|@ ", text), "a lock names no index and no address"


@pytest.mark.parametrize("lock", DIRECT)
def test_locks_have_all_that_the_packages_ask_for(lock):
    package, extras = DIRECT[lock]
    project = tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [one for extra in extras for one in project["optional-dependencies"][extra]]
    names = {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in wanted}
    assert names - set(pins((DEPLOY / lock).read_text())) <= {"torch"}, "run: python deploy/lock.py"


def test_the_server_images_have_no_torch():
    for lock in ("requirements-cpu.lock", "requirements-gpu.lock"):
        assert not {"torch", "pip", "setuptools", "conveyor-exporter"} & set(pins((DEPLOY / lock).read_text()))


def test_envoy_accepts_its_file_as_it_is():
    command = [envoy(), "--mode", "validate", "--config-path", str(DEPLOY / "envoy.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


def test_haproxy_accepts_its_file_as_it_is():
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(DEPLOY / "haproxy.cfg")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def variables():
    """Environment variables of the server that files in deploy/ name."""
    for file in (DEPLOY / "server.Containerfile", DEPLOY / "compose.yaml"):
        for name in re.findall(r"\bCONVEYOR_[A-Z_]+\b", file.read_text()):
            yield file.name, name


def test_the_files_name_settings_that_exist():
    known = {setting.variable for setting in describe_settings()}
    assert {name for _, name in variables()} <= known


def test_the_image_exposes_the_servers_ports_and_probes_a_path_of_its():
    text = (DEPLOY / "server.Containerfile").read_text()
    ports = {field: Settings.__dataclass_fields__[field].default for field in ("grpc_port", "http_port")}
    assert f"EXPOSE {ports['grpc_port']} {ports['http_port']}" in text
    module = re.search(r'HEALTHCHECK.*\n.*"-m", "conveyor_server\.(\w+)"', text)[1]
    path = re.search(r"(/\w+)\"$", (ROOT / f"server/conveyor_server/{module}.py").read_text(), re.MULTILINE)[1]
    assert f'"{path}"' in (ROOT / "server/conveyor_server/http_server.py").read_text()


def test_compose_fits_the_other_files():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    server = services["conveyor"]
    assert server["deploy"]["replicas"] == 3
    phases = sum(server["environment"][f"CONVEYOR_{phase}_SECONDS"] for phase in ("LAME_DUCK", "DRAIN"))
    # After the drain, the server waits some seconds for silence.
    assert int(server["stop_grace_period"].removesuffix("s")) >= phases + 5
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
    assert (DEPLOY / server["build"]["context"] / server["build"]["dockerfile"]).exists()


def test_whom_envoy_and_prometheus_ask_is_a_service_of_compose():
    services = set(yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"])
    for cluster in yaml.safe_load((DEPLOY / "envoy.yaml").read_text())["static_resources"]["clusters"]:
        for endpoint in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
            address = endpoint["endpoint"]["address"]["socket_address"]["address"]
            assert address in services | {"127.0.0.1"}
    for job in yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]:
        names = [name for discovery in job.get("dns_sd_configs", []) for name in discovery["names"]]
        names += [target.split(":")[0] for one in job.get("static_configs", []) for target in one["targets"]]
        assert set(names) <= services


def dashboard():
    return json.loads((DEPLOY / "grafana" / "conveyor.json").read_text())


def test_the_dashboard_uses_the_data_source_and_the_folder_that_are_provisioned():
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    assert source["type"] == dashboard()["templating"]["list"][0]["query"] == "prometheus"
    provider = yaml.safe_load((provisioning / "dashboards" / "conveyor.yaml").read_text())["providers"][0]
    grafana = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]
    assert any(volume.split(":")[1].startswith(provider["options"]["path"]) for volume in grafana["volumes"])
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["type"] == "row" or (panel["description"] and panel["targets"]) for panel in panels)


async def test_every_metric_and_label_of_the_dashboard_exists(fleet, balancers):
    async with through(balancers[0], questions=[SMALL]) as load:  # some are there once something was counted
        await load.progress(100)
    pages = balancers[0].metrics() + fleet.metrics(0)
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 20
    for expression in expressions:
        for name in re.findall(r"\b(?:conveyor|envoy|process)_\w+", re.sub(r'"[^"]*"|by \([^)]*\)', "", expression)):
            if name.startswith("envoy_cluster_name"):
                continue
            assert re.search(rf"^{name}[{{ ]", pages, re.MULTILINE), f"no metric {name} ({expression})"
        # What Prometheus itself adds.
        for label in re.findall(r"by \(([^)]*)\)", expression):
            for one in label.split(", "):
                assert one in {"instance", "job"} or re.search(rf'[{{,]{one}="', pages), f"no label {one}"


def test_the_example_client_finds_all_replicas(fleet):
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port, _ in fleet.addresses)
    command = [sys.executable, str(ROOT / "docs" / "round_robin.py"), "digits", target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "digits was ready 100 times out of 100.\n", done.stderr


def test_nothing_of_the_machine_that_wrote_them_is_in_the_files():
    for file in [*DEPLOY.rglob("*"), Path(ROOT / "docs" / "round_robin.py")]:
        if file.is_file() and "__pycache__" not in file.parts:
            assert not re.search(r"/(root|work|home)/", file.read_text()), file
