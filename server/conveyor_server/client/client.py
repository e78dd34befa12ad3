"""`Client`: the calls of a client for threads. Drives the procedures, and decides nothing."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from numpy.typing import ArrayLike

from conveyor_server.client.arrays import Outputs
from conveyor_server.client.asking import Pause, Send, Steps
from conveyor_server.client.base import BaseClient
from conveyor_server.client.descriptions import ModelDescription, ModelState, ModelStatistics, ServerDescription
from conveyor_server.client.driving import drive
from conveyor_server.client.grpc_channels import Channels
from conveyor_server.client.infer_request import Parameter
from conveyor_server.client.labels import Prediction
from conveyor_server.client.procedures import Version
from conveyor_server.client.thread_gathering import ThreadGathering
from conveyor_server.core.model import Array

_R = TypeVar("_R")


class Client(BaseClient):
    """A client that threads may share. Use it in a `with` block, or call `close`.

    What all calls have in common: `timeout` is the seconds that this call may take, where the client's do not fit.
    `version` is the model's version, None for the server's choice. They raise `CallError`, of which each child says
    whose fault it is; `ValueError` and `TypeError` for arguments that cannot be right; `RuntimeError` once the client
    is closed.
    """

    @overload
    def predict(
        self,
        model: str,
        images: ArrayLike,
        *,
        version: Version = None,
        timeout: float | None = None,
        request_id: str = "",
        outputs: str | None = None,
    ) -> Array: ...

    @overload
    def predict(
        self,
        model: str,
        images: ArrayLike,
        *,
        version: Version = None,
        timeout: float | None = None,
        request_id: str = "",
        outputs: list[str] | tuple[str, ...],
    ) -> Outputs: ...

    def predict(
        self,
        model: str,
        images: ArrayLike,
        *,
        version: Version = None,
        timeout: float | None = None,
        request_id: str = "",
        outputs: str | list[str] | tuple[str, ...] | None = None,
    ) -> Array | Outputs:
        """The model's answers to a batch of images.

        Args:
            model: name of a model with one input.
            images: `[batch, …]` as the model's input wants it. Floating-point values are rounded to its precision,
                whole numbers may be of any width if they fit; BF16 takes floating point, BYTES strings.
            version: see the class.
            timeout: see the class.
            request_id: found again in the server's log and traces.
            outputs: the output that you want, for models with several; or a list of them.

        Returns:
            `[batch, …]` of the output's dtype (float32 for BF16, `str` objects for BYTES), read-only; for a list of
            outputs, an array for each by name.

        Raises:
            TypeError: the images are whole numbers and the model wants floating point, or the other way round.
            ValueError: the model has several inputs (use `infer`), or several outputs and none is named; values that
                the model's dtype cannot hold. `InvalidRequest`, the server's word on the same, is one, too.
            CallError: there is no answer.
        """
        return self._run(self._procedures.predict(model, images, version, timeout, request_id, outputs))

    def classify(
        self,
        model: str,
        images: ArrayLike,
        *,
        version: Version = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> list[Prediction]:
        """The most probable label of each image, for models whose output is `[batch, classes]` or `[batch, 1]`.

        Arguments and errors are those of `predict`; the model's own labels are taken, or numbers if it has none.
        """
        return self._run(self._procedures.classify(model, images, version, timeout, request_id))

    def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: Version = None,
        timeout: float | None = None,
        request_id: str = "",
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Outputs:
        """The outputs of a model by name, all of them or those of `outputs`, for an array for each of its inputs.

        `parameters` are those of the protocol: `{"priority": 1}`. Raises as `predict` does.
        """
        return self._run(self._procedures.infer(model, inputs, version, timeout, request_id, outputs, parameters))

    def describe(self, model: str, version: Version = None, *, timeout: float | None = None) -> ModelDescription:
        """Signature, labels and other metadata of a model; asked once, then remembered."""
        return self._run(self._procedures.describe(model, version, timeout))

    def server(self, *, timeout: float | None = None) -> ServerDescription:
        """The server's name, version and extensions."""
        return self._run(self._procedures.server(timeout))

    def live(self, *, timeout: float | None = None) -> bool:
        """Whether the server's process answers. If not, the error says why."""
        return self._run(self._procedures.live(timeout))

    def ready(self, model: str | None = None, version: Version = None, *, timeout: float | None = None) -> bool:
        """Whether the server takes requests; with a name, whether that model does. Asked once, without retries."""
        return self._run(self._procedures.ready(model, version, timeout))

    def wait_ready(self, model: str | None = None, version: Version = None, *, timeout: float | None = None) -> None:
        """Opens all connections, and returns when the server, or that model, takes requests on each.

        Raises:
            CallError: not in time; the text says what was in the way last.
        """
        self._run(self._procedures.wait_ready(model, version, timeout, self.connections))

    def models(self, *, timeout: float | None = None) -> list[ModelState]:
        """Every version of every model in the repository, with its state and, if it does not answer, the reason."""
        return self._run(self._procedures.models(timeout))

    def statistics(
        self, model: str = "", version: Version = None, *, timeout: float | None = None
    ) -> list[ModelStatistics]:
        """What each served version of a model has done, or of all models."""
        return self._run(self._procedures.statistics(model, version, timeout))

    def load(self, model: str, *, timeout: float | None = None) -> None:
        """Has the server load a model, or load it again; never repeated. The server must have been started for this."""
        self._run(self._procedures.load(model, timeout))

    def unload(self, model: str, *, timeout: float | None = None) -> None:
        """Has the server take a model out of service; see `load`."""
        self._run(self._procedures.unload(model, timeout))

    def close(self) -> None:
        """Ends the connections. Calls under way fail as `Cancelled`."""
        self._channels.close()
        if self._gatherer is not None:
            self._gatherer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        self._channels = Channels(self._settings)
        self._gatherer: ThreadGathering | None = None
        if self._gathering is not None:
            self._gatherer = ThreadGathering(
                self._gathering,
                self._gather_delay,
                self._asking,
                lambda request: self._run(self._inference.send_gathered(request)),
            )

    def _run(self, steps: Steps[_R]) -> _R:
        return drive(steps, self._take)

    def _take(self, step: Any) -> object:
        if type(step) is Send:
            return self._channels.send(step)
        if type(step) is Pause:
            time.sleep(step.seconds)
            return None
        assert self._gatherer is not None, "Only a client that gathers has calls that join. This is a bug."
        return self._gatherer.join(step)
