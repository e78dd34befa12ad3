import shutil
from pathlib import Path

import pytest

from support.kustomize import read, render

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"


def _variant(folder, target, component, instead):
    """The cpu overlay with one component in the place of another."""
    shutil.copytree(folder, target)
    file = target / "overlays" / "cpu" / "kustomization.yaml"
    text = file.read_text()
    assert f"components/{component}" in text
    file.write_text(text.replace(f"components/{component} ", f"components/{instead} "))
    return render(target / "overlays" / "cpu")


@pytest.fixture(scope="session")
def installations(tmp_path_factory):
    """Every way to install that the files offer, by name, each as a list of objects."""
    target = tmp_path_factory.mktemp("kubernetes")
    return {
        "cpu": render(KUBERNETES / "overlays" / "cpu"),
        "gpu": render(KUBERNETES / "overlays" / "gpu"),
        "cpu with a claim": _variant(KUBERNETES, target / "claim", "repository-copy", "repository-claim"),
        "cpu with KEDA": _variant(KUBERNETES, target / "keda", "autoscaling", "autoscaling-keda"),
        "kserve": render(KUBERNETES / "kserve"),
    }


@pytest.fixture(params=["cpu", "gpu", "cpu with a claim", "cpu with KEDA"])
def objects(request, installations):
    """The objects of an installation that runs our own Deployment, by kind."""
    by_kind = {}
    for thing in installations[request.param]:
        by_kind.setdefault(thing["kind"], []).append(thing)
    return by_kind


@pytest.fixture
def deployment(objects):
    [deployment] = objects["Deployment"]
    return deployment


@pytest.fixture
def pod(deployment):
    return deployment["spec"]["template"]["spec"]


@pytest.fixture
def container(pod):
    [container] = pod["containers"]
    return container


@pytest.fixture(scope="session")
def serving_runtime():
    [runtime] = read(KUBERNETES / "kserve" / "serving-runtime.yaml")
    return runtime


@pytest.fixture(scope="session")
def inference_service():
    [service] = read(KUBERNETES / "kserve" / "inference-service.yaml")
    return service


@pytest.fixture(scope="session")
def adapter_rules():
    [configuration] = read(KUBERNETES / "components" / "autoscaling" / "adapter-rules.yaml")
    return configuration["rules"]
