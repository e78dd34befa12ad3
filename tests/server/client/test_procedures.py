"""The steps of calls, one at a time: what is sent, when it is sent again, and what comes of it."""

from math import inf

import numpy as np
import pytest

from conveyor_server.client.asking import Asking, Pause
from conveyor_server.client.driving import drive
from conveyor_server.client.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    ServerError,
    Unavailable,
    error_of,
)
from conveyor_server.client.inference import Inference
from conveyor_server.client.model_descriptions import ModelDescriptions
from conveyor_server.client.procedures import Procedures
from conveyor_server.client.retries import Retries, RetryPolicy
from conveyor_server.core.model import ModelSpec, TensorSpec
from conveyor_server.generated import inference_pb2 as pb
from support.puppet_server import DOUBLE, POISON, PuppetServer

POLICY = RetryPolicy()
X = np.array([[1, 2], [3, 4]], np.float32)


def refusal(pushback=None):
    return error_of("UNAVAILABLE", "full", "puppet", pushback)


class Driver:
    """Takes the steps of procedures against a puppet; time passes in pauses, and by `latency` with each answer."""

    def __init__(self, server=None, policy=POLICY, latency=0.0, timeout=10.0):
        self.server = server or PuppetServer()
        self.now = 100.0
        self.latency = latency
        self.pauses = []
        asking = Asking("puppet", timeout, Retries(policy, lambda: 1.0), lambda: self.now)
        descriptions = ModelDescriptions(asking)
        self.procedures = Procedures(asking, descriptions, Inference(asking, descriptions, None, 0.0))

    def run(self, steps):
        return drive(steps, self.take)

    def take(self, step):
        if isinstance(step, Pause):
            self.pauses.append(step.seconds)
            self.now += step.seconds
            return None
        self.now += self.latency
        return self.server.answer(step)

    def predict(self, images=X, version=None, timeout=None, request_id="", outputs=None):
        return self.run(self.procedures.predict("double", images, version, timeout, request_id, outputs))


def test_a_model_is_described_once_and_then_asked():
    driver = Driver()
    for _ in range(2):
        np.testing.assert_array_equal(driver.predict(), X * 2)
    assert driver.server.asked == ["ModelMetadata", "ModelConfig", "ModelInfer", "ModelInfer"]


def test_everything_that_is_said_of_a_call_reaches_the_server():
    driver = Driver()
    driver.predict(version=3, request_id="abc", outputs="y")
    (request,) = driver.server.requests
    assert (request.model_name, request.model_version, request.id) == ("double", "3", "abc")
    assert [output.name for output in request.outputs] == ["y"]
    parameters = {"b": True, "i": 1, "f": 0.5, "s": "x"}
    driver.run(driver.procedures.infer("double", {"x": X}, None, None, "", None, parameters))
    sent = driver.server.requests[-1].parameters
    assert [(name, sent[name].WhichOneof("parameter_choice")) for name in sorted(sent)] == [
        ("b", "bool_param"),
        ("f", "double_param"),
        ("i", "int64_param"),
        ("s", "string_param"),
    ]
    with pytest.raises(TypeError, match="The parameter 'p' is list, expected"):
        driver.run(driver.procedures.infer("double", {"x": X}, None, None, "", None, {"p": []}))


def test_a_list_of_outputs_is_answered_by_name():
    outputs = Driver().predict(outputs=["y"])
    assert list(outputs) == ["y"]
    assert (outputs.model, outputs.version) == ("double", "1")


def test_the_deadline_of_a_call_is_what_is_left_of_it():
    driver = Driver(latency=1.0)
    driver.predict(timeout=5.0)
    assert driver.server.timeouts == [5.0, 4.0, 3.0]
    for wrong in (0, -1, float("nan"), float("inf"), 1e300):
        with pytest.raises(ValueError, match="timeout must be above 0 and at most"):
            driver.predict(timeout=wrong)


def test_a_refusal_is_asked_again_after_a_growing_pause():
    driver = Driver()
    driver.server.failures = [refusal()] * 4
    np.testing.assert_array_equal(driver.predict(), X * 2)
    assert driver.pauses == pytest.approx([0.02, 0.04, 0.08, 0.16])


def test_the_servers_push_back_is_the_pause_and_begins_the_backoff_anew():
    driver = Driver()
    driver.server.failures = [refusal(), refusal(), refusal(3.0), refusal(), refusal()]
    driver.predict()
    assert driver.pauses == pytest.approx([0.02, 0.04, 3.0, 0.02, 0.04])


def test_retries_end_after_the_attempts_of_the_policy():
    driver = Driver(policy=RetryPolicy(max_attempts=3))
    driver.server.failures = [refusal()] * 9
    with pytest.raises(Unavailable, match="full") as caught:
        driver.predict()
    assert (caught.value.attempts, len(driver.server.requests)) == (3, 3)


@pytest.mark.parametrize("pushback", [inf, 10.0, 60.0])
def test_what_could_not_be_answered_in_time_is_given_up_at_once(pushback):
    driver = Driver()
    driver.server.failures = [refusal(pushback)]
    with pytest.raises(Unavailable, match="full"):
        driver.predict()
    assert (driver.now, driver.pauses) == (100.0, [])


def test_retries_end_with_the_deadline_and_say_why_the_server_refused():
    policy = RetryPolicy(max_attempts=1000)
    driver = Driver(policy=policy, latency=0.3)
    driver.server.failures = [refusal()] * 999
    with pytest.raises(Unavailable, match="full"):
        driver.predict(timeout=5.0)
    assert 103 < driver.now <= 105.3
    driver = Driver(policy=policy)
    driver.server.failures = [refusal(), error_of("DEADLINE_EXCEEDED", "Deadline Exceeded", "puppet")]
    with pytest.raises(DeadlineExceeded, match="Deadline Exceeded; it was refused before: full") as caught:
        driver.predict()
    assert caught.value.attempts == 2


@pytest.mark.parametrize("code", ["INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED", "UNKNOWN"])
def test_nothing_else_is_asked_again(code):
    driver = Driver()
    driver.server.failures = [error_of(code, "no", "puppet")]
    with pytest.raises(Exception, match=f"{code}: no"):
        driver.predict()
    assert (len(driver.server.requests), driver.pauses) == (1, [])


def test_no_policy_asks_once():
    driver = Driver(policy=None)
    driver.server.failures = [refusal()]
    with pytest.raises(Unavailable):
        driver.predict()


def test_the_budget_is_shared_by_the_calls_of_a_client():
    driver = Driver(policy=RetryPolicy(budget=10))
    driver.server.failures = [refusal()] * 99
    for _ in range(9):
        with pytest.raises(Unavailable):
            driver.predict()
    assert len(driver.server.requests) == 5 + 8  # the fifth refusal spends half of the budget


@pytest.mark.parametrize("procedure", ["server", "live", "models"])
def test_a_question_for_the_state_is_asked_once(procedure):
    driver = Driver(Readiness(refusal()))
    with pytest.raises(Unavailable):
        driver.run(getattr(driver.procedures, procedure)(None))
    assert driver.pauses == []


def change_model(driver, inputs):
    outputs = (TensorSpec("y", inputs[0].datatype, inputs[0].shape),)
    driver.server.spec = ModelSpec("double", 2, tuple(inputs), outputs, max_batch_size=100)


@pytest.mark.parametrize("tensor", [TensorSpec("image", "FP32", (-1, 2)), TensorSpec("x", "FP16", (-1, 2))])
def test_a_new_version_with_another_signature_costs_no_call(tensor):
    driver = Driver()
    driver.predict()
    change_model(driver, [tensor])
    np.testing.assert_array_equal(driver.predict(), X * 2)
    assert driver.server.asked[3:] == ["ModelInfer", "ModelMetadata", "ModelConfig", "ModelInfer"]
    driver.predict()
    assert driver.server.asked[7:] == ["ModelInfer"]


def test_what_was_refused_here_is_judged_by_the_present_signature():
    driver = Driver()
    driver.predict()
    whole = X.astype(np.int64)
    with pytest.raises(TypeError, match="wants float32, got int64"):
        driver.predict(whole)
    change_model(driver, [TensorSpec("x", "INT64", (-1, 2))])
    np.testing.assert_array_equal(driver.predict(whole), whole * 2)


def test_a_request_that_stays_wrong_keeps_its_own_error():
    driver = Driver()
    driver.predict()
    wrong = np.zeros((1, 3), np.float32)
    with pytest.raises(InvalidRequest, match=r"Expected \[-1,2\], got \[1,3\]"):
        driver.predict(wrong)
    assert len(driver.server.requests) == 2
    answer = driver.server.answer

    def gone(step):
        if step.method.name == "ModelMetadata":
            raise error_of("NOT_FOUND", "gone", "puppet")
        return answer(step)

    driver.server.answer = gone
    with pytest.raises(InvalidRequest, match=r"got \[1,3\]"):
        driver.predict(wrong)
    with pytest.raises(NotFound, match="gone"):  # it is not remembered any more
        driver.predict()


def test_a_server_without_model_configs_is_enough():
    driver = Driver()
    driver.server.without_config = True
    np.testing.assert_array_equal(driver.predict(), X * 2)
    described = driver.run(driver.procedures.describe("double", None, None))
    assert (described.labels, described.max_batch_size, described.version) == ([], 0, "10")


def test_several_inputs_and_outputs_must_be_named():
    two = (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "FP32", (-1, 2)))
    driver = Driver(PuppetServer(ModelSpec("double", 1, two, two, max_batch_size=8)))
    with pytest.raises(ValueError, match=r"several inputs \(a, b\); call infer\(\)"):
        driver.predict()
    driver = Driver(PuppetServer(ModelSpec("double", 1, two[:1], two, max_batch_size=8)))
    with pytest.raises(ValueError, match=r"several outputs \(a, b\); call predict\(\) with the one"):
        driver.predict()
    with pytest.raises(ValueError, match="has no input 'x'; it has a"):
        driver.run(driver.procedures.infer("double", {"x": X}, None, None, "", None, None))


def test_an_answer_that_is_no_answer_is_the_servers_fault():
    driver = Driver()
    driver.server.infer = lambda request: pb.ModelInferResponse(raw_output_contents=[b""])
    with pytest.raises(ServerError, match="INTERNAL: the answer is not one of this protocol: 1 raw contents"):
        driver.predict()


def test_labels_come_from_the_model():
    spec = ModelSpec("double", 1, DOUBLE.inputs, DOUBLE.outputs, 8)
    driver = Driver(PuppetServer(spec))
    got = driver.run(driver.procedures.classify("double", [[0.1, 0.4], [0.3, 0.1]], None, None, ""))
    assert [one.label for one in got] == ["1", "0"]


def test_a_poisoned_request_is_refused_alone():
    with pytest.raises(InvalidRequest, match="poison"):
        Driver().predict(np.full((1, 2), POISON, np.float32))


class Readiness:
    """Says that it is ready when all of `answers` are used up."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.connections = []

    def answer(self, step):
        self.connections.append(step.connection)
        said = self.answers.pop(0) if self.answers else True
        if isinstance(said, Exception):
            raise said
        return pb.ServerReadyResponse(ready=said)


def test_waiting_for_readiness_opens_every_connection():
    driver = Driver(Readiness(refusal(), False, True, refusal(), True))
    driver.run(driver.procedures.wait_ready(None, None, None, 3))
    assert driver.server.connections == [0, 0, 0, 1, 1, 2]
    assert driver.pauses == [0.1] * 3


@pytest.mark.parametrize(("said", "text"), [(False, "the server is not ready"), (refusal(), "UNAVAILABLE: full")])
def test_waiting_ends_with_the_deadline_and_says_what_was_in_the_way(said, text):
    driver = Driver(Readiness(*[said] * 999))
    with pytest.raises(Unavailable, match=text):
        driver.run(driver.procedures.wait_ready(None, None, 2.0, 1))
    assert 101.8 <= driver.now <= 102
