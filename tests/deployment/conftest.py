import shutil
from pathlib import Path

import pytest

from support.kustomize import read, render

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"


VARIANTS = {
    "cpu with a claim": ("repository-copy #", "repository-claim #"),
    "cpu with a bucket": ("repository-copy #", "repository-bucket #"),
    "cpu with KEDA": ("autoscaling #", "autoscaling-keda #"),
    "cpu without monitoring, with TLS": ("monitoring\n  # - ../../components/tls\n", "tls\n"),
    "cpu with TLS and tokens": (
        "monitoring\n  # - ../../components/tls\n  # - ../../components/tokens\n",
        "monitoring\n  - ../../components/tls\n  - ../../components/tokens\n",
    ),
}
"""The cpu overlay with one component in the place of another, or one more, as its comments offer."""


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Every way to install that the files offer, by name: a folder for kustomize."""
    found = {name: KUBERNETES / "overlays" / name for name in ("cpu", "gpu")} | {"kserve": KUBERNETES / "kserve"}
    for name, (offered, instead) in VARIANTS.items():
        copied = shutil.copytree(KUBERNETES, tmp_path_factory.mktemp("kubernetes") / "files")
        file = copied / "overlays" / "cpu" / "kustomization.yaml"
        text = file.read_text()
        assert f"components/{offered}" in text
        assert instead.split()[0] in text, "a comment should offer it"
        file.write_text(text.replace(f"components/{offered}", f"components/{instead}"))
        found[name] = file.parent
    return found


@pytest.fixture(scope="session")
def installations(folders):
    """The same, each as a list of objects."""
    return {name: render(folder) for name, folder in folders.items()}


@pytest.fixture(params=["cpu", "gpu", *VARIANTS])
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
