"""Every call of a client as steps without I/O, for whoever drives them: threads or asyncio."""

from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike

from conveyor_server.client.arrays import Outputs
from conveyor_server.client.asking import (
    MODEL_LOAD,
    MODEL_READY,
    MODEL_STATISTICS,
    MODEL_UNLOAD,
    REPOSITORY_INDEX,
    SERVER_LIVE,
    SERVER_METADATA,
    SERVER_READY,
    Asking,
    Pause,
    Steps,
)
from conveyor_server.client.descriptions import ModelDescription, ModelState, ModelStatistics, ServerDescription
from conveyor_server.client.errors import Unavailable
from conveyor_server.client.infer_request import Parameter, Wish, read_parameters
from conveyor_server.client.inference import Inference
from conveyor_server.client.labels import Prediction, read_predictions
from conveyor_server.client.model_descriptions import ModelDescriptions
from conveyor_server.core.model import Array, TensorSpec
from conveyor_server.generated import inference_pb2 as pb

Version = str | int | None
_LOOK_AGAIN_SECONDS = 0.1
_EMPTY = b""
"""Every request without fields."""


class Procedures:
    """What a client can be asked for. Raises what `Client` says."""

    def __init__(self, asking: Asking, descriptions: ModelDescriptions, inference: Inference) -> None:
        self._asking = asking
        self._descriptions = descriptions
        self._inference = inference

    def predict(
        self,
        model: str,
        images: ArrayLike,
        version: Version,
        timeout: float | None,
        request_id: str,
        outputs: str | list[str] | tuple[str, ...] | None,
    ) -> Steps[Array | Outputs]:
        """The one output of a model with one input, or those that are named."""
        several = outputs is not None and not isinstance(outputs, str)
        return self._inference.infer(
            _wish(model, version, outputs),
            lambda description: _only_input(description, images, outputs),
            request_id,
            timeout,
            _all_outputs if several else _only_output,
        )

    def classify(
        self, model: str, images: ArrayLike, version: Version, timeout: float | None, request_id: str
    ) -> Steps[list[Prediction]]:
        """The labels of a model with one input and one output, which are probabilities."""
        return self._inference.infer(
            _wish(model, version),
            lambda description: _only_input(description, images, None),
            request_id,
            timeout,
            lambda outputs, described: read_predictions(
                _only_output(outputs, described), described.labels, described.threshold
            ),
        )

    def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        version: Version,
        timeout: float | None,
        request_id: str,
        outputs: Sequence[str] | None,
        parameters: Mapping[str, Parameter] | None,
    ) -> Steps[Outputs]:
        """Named outputs for named inputs."""
        wish = _wish(model, version, outputs, parameters)
        return self._inference.infer(wish, lambda _: inputs, request_id, timeout, _all_outputs)

    def describe(self, model: str, version: Version, timeout: float | None) -> Steps[ModelDescription]:
        """Signature and metadata of a model."""
        name, deadline = _text(version), self._asking.deadline(timeout)
        known = self._descriptions.remembered(model, name)
        return known or (yield from self._descriptions.ask(model, name, deadline))

    def server(self, timeout: float | None) -> Steps[ServerDescription]:
        """What the server says of itself."""
        answer = yield from self._asking.ask(SERVER_METADATA, _EMPTY, self._asking.deadline(timeout))
        return ServerDescription.read(answer)

    def live(self, timeout: float | None) -> Steps[bool]:
        """Whether the server's process answers."""
        answer = yield from self._asking.ask(SERVER_LIVE, _EMPTY, self._asking.deadline(timeout))
        return answer.live

    def ready(self, model: str | None, version: Version, timeout: float | None) -> Steps[bool]:
        """Whether the server, or a model, takes requests."""
        return (yield from self._ready(model, version, self._asking.deadline(timeout), None))

    def wait_ready(self, model: str | None, version: Version, timeout: float | None, connections: int) -> Steps[None]:
        """Returns when every connection leads to a server that is ready."""
        deadline = self._asking.deadline(timeout)
        for connection in range(connections):
            while True:
                try:
                    if (yield from self._ready(model, version, deadline, connection)):
                        break
                    what = "the server" if model is None else f"model '{model}'"
                    reason = Unavailable("UNAVAILABLE", f"{what} is not ready", self._asking.server)
                except Unavailable as error:
                    reason = error
                if self._asking.clock() + _LOOK_AGAIN_SECONDS >= deadline:
                    raise reason
                yield Pause(_LOOK_AGAIN_SECONDS)

    def models(self, timeout: float | None) -> Steps[list[ModelState]]:
        """Every version of every model in the repository."""
        deadline = self._asking.deadline(timeout)
        answer = yield from self._asking.ask(REPOSITORY_INDEX, _EMPTY, deadline)
        return [ModelState.read(model) for model in answer.models]

    def statistics(self, model: str, version: Version, timeout: float | None) -> Steps[list[ModelStatistics]]:
        """What served models have done."""
        question = pb.ModelStatisticsRequest(name=model, version=_text(version)).SerializeToString()
        answer = yield from self._asking.ask(MODEL_STATISTICS, question, self._asking.deadline(timeout))
        return [ModelStatistics.read(statistics) for statistics in answer.model_stats]

    def load(self, model: str, timeout: float | None) -> Steps[None]:
        """Has the server load a model."""
        request = pb.RepositoryModelLoadRequest(model_name=model).SerializeToString()
        yield from self._asking.ask(MODEL_LOAD, request, self._asking.deadline(timeout))

    def unload(self, model: str, timeout: float | None) -> Steps[None]:
        """Has the server unload a model."""
        request = pb.RepositoryModelUnloadRequest(model_name=model).SerializeToString()
        yield from self._asking.ask(MODEL_UNLOAD, request, self._asking.deadline(timeout))

    def _ready(self, model: str | None, version: Version, deadline: float, connection: int | None) -> Steps[bool]:
        if model is None:
            server = yield from self._asking.ask(SERVER_READY, _EMPTY, deadline, connection)
            return server.ready
        question = pb.ModelReadyRequest(name=model, version=_text(version)).SerializeToString()
        answer = yield from self._asking.ask(MODEL_READY, question, deadline, connection)
        return answer.ready


def _wish(
    model: str,
    version: Version,
    outputs: str | Sequence[str] | None = None,
    parameters: Mapping[str, Parameter] | None = None,
) -> Wish:
    names = (outputs,) if isinstance(outputs, str) else tuple(outputs or ())
    return Wish(model, _text(version), names, read_parameters(parameters) if parameters else ())


def _text(version: Version) -> str:
    return "" if version is None else str(version)


def _only_input(
    description: ModelDescription, images: ArrayLike, outputs: str | Sequence[str] | None
) -> dict[str, ArrayLike]:
    """The images under the name of the model's input; refuses what `predict` is not for."""
    if len(description.inputs) != 1:
        raise ValueError(
            f"Model '{description.name}' has several inputs ({_names(description.inputs)}); call infer() with an array "
            "for each."
        )
    if not outputs and len(description.outputs) > 1:
        raise ValueError(
            f"Model '{description.name}' has several outputs ({_names(description.outputs)}); call predict() with the "
            "one that you want, or several, as `outputs`."
        )
    return {description.inputs[0].name: images}


def _only_output(outputs: Outputs, _: ModelDescription) -> Array:
    return next(iter(outputs.values()))


def _all_outputs(outputs: Outputs, _: ModelDescription) -> Outputs:
    return outputs


def _names(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(tensor.name for tensor in tensors)
