"""Every manifest against Kubernetes' own schemas, and custom resources against the fields documented of them."""

from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from support.custom_resources import SCHEMAS, TRIGGER_METADATA

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
NEWEST = kubernetes_validate.latest_version()
OLDEST = "1.30"
"""The first version with the kubelet's own sleep before the stop."""


def check(thing, version=NEWEST):
    kubernetes_validate.validate(thing, version, strict=True)


def pod_of(spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "checked"}, "spec": spec}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_fits_its_schema(installations, version):
    for name, things in installations.items():
        for thing in things:
            if schema := SCHEMAS.get(thing["kind"]):
                jsonschema.Draft202012Validator(schema).validate(thing)
                check({"apiVersion": "v1", "kind": "ConfigMap", "metadata": thing["metadata"]}, version)
            else:
                check(thing, version)
        kinds = {thing["kind"] for thing in things}
        assert kinds >= ({"ServingRuntime", "InferenceService"} if name == "kserve" else {"Deployment", "Service"}), (
            name
        )


def test_the_containers_of_the_serving_runtime_are_containers(serving_runtime):
    check(pod_of({"containers": serving_runtime["spec"]["containers"]}))


def test_the_pod_fields_of_the_inference_service_are_a_pods(inference_service):
    known = SCHEMAS["InferenceService"]["properties"]["spec"]["properties"]["predictor"]["properties"]
    predictor = inference_service["spec"]["predictor"]
    fields = {name: value for name, value in predictor.items() if known[name] == {}}
    assert fields
    check(pod_of({"containers": [{"name": "kserve-container", "image": "any"}], **fields}))


def test_the_behaviour_in_the_scaled_object_is_an_autoscalers(installations):
    [scaled] = [thing for thing in installations["cpu with KEDA"] if thing["kind"] == "ScaledObject"]
    behaviour = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    [autoscaler] = [thing for thing in installations["cpu"] if thing["kind"] == "HorizontalPodAutoscaler"]
    check({**autoscaler, "spec": {**autoscaler["spec"], "behavior": behaviour}})
    assert behaviour == autoscaler["spec"]["behavior"], "both ways to scale should behave the same"


def test_each_trigger_is_told_what_it_must_know(installations):
    [scaled] = [thing for thing in installations["cpu with KEDA"] if thing["kind"] == "ScaledObject"]
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["metadata"].keys() == TRIGGER_METADATA[trigger["type"]]
    # KEDA refuses a fallback that no trigger can use.
    assert any(trigger["metricType"] == "AverageValue" for trigger in scaled["spec"]["triggers"])


def test_a_wrong_field_is_found(installations):
    """The check checks."""
    deployment = next(thing for thing in installations["cpu"] if thing["kind"] == "Deployment")
    with pytest.raises(kubernetes_validate.ValidationError):
        check({**deployment, "spec": {**deployment["spec"], "replica": 3}})


def test_no_file_is_left_unchecked():
    """Each file is a kustomization, is named by one in its folder, or is the configuration of another program."""
    named = set()
    for file in KUBERNETES.rglob("kustomization.yaml"):
        settings = yaml.safe_load(file.read_text())
        entries = settings.get("resources", []) + [patch["path"] for patch in settings.get("patches", [])]
        named |= {(file.parent / entry).resolve() for entry in entries}
    others = {KUBERNETES / "components" / "autoscaling" / "adapter-rules.yaml"}
    files = {file.resolve() for file in KUBERNETES.rglob("*.yaml") if file.name != "kustomization.yaml"}
    assert files - named == others
