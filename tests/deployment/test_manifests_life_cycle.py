"""The times and amounts in the manifests must add up: a stop, a start, the memory of a full queue."""

from pathlib import Path

CLOSING_SECONDS = 3
"""What a server takes after the drain: up to 2 s until no more calls arrive, then it closes ports and sessions."""
IDLE_BYTES = 200 * 2**20
"""More than a server takes with a small model and nothing to do; docs/scaling.md has the measured figure."""
KSERVE_DEFAULT_GRACE_SECONDS = 30
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def size(quantity):
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def variables(container):
    return {variable["name"]: variable["value"] for variable in container["env"]}


def arguments(container):
    return dict(argument.split("=", 1) for argument in container["args"])


def test_the_stop_fits_into_the_grace_period(pod, container):
    given = variables(container)
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    lame_duck, drain = float(given["CONVEYOR_LAME_DUCK_SECONDS"]), float(given["CONVEYOR_DRAIN_SECONDS"])
    needed = waits + lame_duck + drain + CLOSING_SECONDS
    assert needed + 5 <= pod["terminationGracePeriodSeconds"]


def test_the_stop_fits_into_the_grace_period_of_kserve(serving_runtime, inference_service):
    [container] = serving_runtime["spec"]["containers"]
    given = arguments(container)
    needed = float(given["--lame-duck-seconds"]) + float(given["--drain-seconds"]) + CLOSING_SECONDS
    assert "lifecycle" not in container, "Knative refuses it"
    assert needed + 5 <= KSERVE_DEFAULT_GRACE_SECONDS
    assert needed + 5 <= inference_service["spec"]["predictor"]["terminationGracePeriodSeconds"]


def test_balancers_see_the_leaving_replica_before_it_refuses(container):
    """The lame duck outlasts the readiness probe, so whoever follows readiness has turned away by then."""
    probe = container["readinessProbe"]
    noticed = probe["periodSeconds"] * probe["failureThreshold"]
    assert float(variables(container)["CONVEYOR_LAME_DUCK_SECONDS"]) >= noticed


def test_liveness_is_not_the_health_of_the_models(container, serving_runtime):
    for each in (container, serving_runtime["spec"]["containers"][0]):
        assert each["livenessProbe"]["httpGet"]["path"] == "/healthz"
        readiness = each["readinessProbe"]
        assert "grpc" in readiness or readiness["httpGet"]["path"] == "/readyz"


def test_liveness_is_slower_to_give_up_than_readiness(container):
    patience = {}
    for name in ("readinessProbe", "livenessProbe"):
        patience[name] = container[name]["periodSeconds"] * container[name]["failureThreshold"]
    assert patience["livenessProbe"] >= 4 * patience["readinessProbe"]


def test_a_slow_start_is_given_time_within_the_roll_outs_own(deployment, container):
    probe = container["startupProbe"]
    patience = probe["periodSeconds"] * probe["failureThreshold"]
    assert 300 <= patience < deployment["spec"]["progressDeadlineSeconds"]


def test_every_container_is_guaranteed_its_resources(pod, container):
    resources = container["resources"]
    assert resources["requests"].items() <= resources["limits"].items()
    cpus = resources["limits"]["cpu"]
    assert int(cpus) >= 1, "a whole number of CPUs: the server sizes its threads by the quota"
    for each in pod.get("initContainers", []):
        assert each["resources"]["limits"]["memory"]


def test_the_memory_limit_has_room_for_a_full_queue(container):
    given = variables(container)
    queue, message = int(given["CONVEYOR_MAX_QUEUE_BYTES"]), int(given["CONVEYOR_MAX_MESSAGE_BYTES"])
    assert IDLE_BYTES + queue + 4 * message <= size(container["resources"]["limits"]["memory"])


def test_the_memory_limit_of_the_serving_runtime_has_room_too(serving_runtime):
    [container] = serving_runtime["spec"]["containers"]
    given = arguments(container)
    queue, message = int(given["--max-queue-bytes"]), int(given["--max-message-bytes"])
    assert IDLE_BYTES + queue + 4 * message <= size(container["resources"]["limits"]["memory"])


def test_one_replica_may_go_at_a_time_and_none_before_its_successor(installations):
    [deployment] = [thing for thing in installations["cpu"] if thing["kind"] == "Deployment"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    [budget] = [thing for thing in installations["cpu"] if thing["kind"] == "PodDisruptionBudget"]
    [autoscaler] = [thing for thing in installations["cpu"] if thing["kind"] == "HorizontalPodAutoscaler"]
    share = int(budget["spec"]["maxUnavailable"].removesuffix("%")) / 100
    assert autoscaler["spec"]["minReplicas"] >= 2
    assert share < 0.5


def test_the_documentation_adds_up_the_same_times(pod, container):
    given = variables(container)
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    lame_duck, drain = int(given["CONVEYOR_LAME_DUCK_SECONDS"]), int(given["CONVEYOR_DRAIN_SECONDS"])
    total = waits + lame_duck + drain + CLOSING_SECONDS
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    sum_of_all = (
        f"{waits} + {lame_duck} + {drain} + {CLOSING_SECONDS} = {total} of {pod['terminationGracePeriodSeconds']}"
    )
    assert sum_of_all in text
