"""The models on disk and their state: loading, ready, or refused with a reason. Serves the latest version of each.

Layout: `<repository>/<model>/<version>/model.onnx`, where the version is a whole number from 1.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from conveyor_server.core.errors import InvalidRequest, ModelNotFound, ModelNotReady, ModelRejected, StartError
from conveyor_server.core.model import ModelSpec
from conveyor_server.engine.batcher import Batcher
from conveyor_server.engine.model_file import read_model_file
from conveyor_server.engine.onnx_model import OnnxModel, RuntimeOptions

log = logging.getLogger(__name__)

MODEL_FILE = "model.onnx"
_VERSION_DIGITS = 18  # the longest run of digits that always fits 64 bits


@dataclass(frozen=True)
class ServedModel:
    """A model that answers, and the queue in front of it."""

    model: OnnxModel
    batcher: Batcher

    @property
    def spec(self) -> ModelSpec:
        """Its signature."""
        return self.model.spec


class ModelStatus(StrEnum):
    """How far a model has come, in the words of the protocol."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass
class ModelState:
    """The latest version of one model, and how far it has come."""

    name: str
    version: int
    path: Path
    status: ModelStatus = ModelStatus.LOADING
    served: ServedModel | None = None
    """Set when the status is READY."""
    reason: str = "it is still loading"
    """Why it does not answer, while it does not."""


class Repository:
    """All models of one folder.

    Args:
        root: the folder.
        options: how models are run.
        make_batcher: puts a queue in front of a loaded model; called in the event loop's thread.

    Raises:
        StartError: the folder is missing, or has no model in it.
    """

    def __init__(self, root: Path, options: RuntimeOptions, make_batcher: Callable[[OnnxModel], Batcher]) -> None:
        self._options = options
        self._make_batcher = make_batcher
        self._states = {state.name: state for state in _scan(root)}
        self.loaded = False
        """Whether every model has been tried."""

    @property
    def states(self) -> list[ModelState]:
        """Every model, by name."""
        return list(self._states.values())

    async def load(self) -> None:
        """Loads, tunes and warms the models one after the other, off the event loop. A bad one does not stop the rest.

        Raises:
            ProviderUnavailable: CUDA was asked for and cannot be used.
        """
        for state in self._states.values():
            try:
                model = await asyncio.to_thread(self._open, state)
            except ModelRejected as error:
                state.status, state.reason = ModelStatus.UNAVAILABLE, str(error)
                log.error("%s version %d is not served: %s", state.name, state.version, error)
            else:
                state.status, state.served = ModelStatus.READY, ServedModel(model, self._make_batcher(model))
        self.loaded = True

    def get(self, name: str, version: str = "") -> ServedModel:
        """The model that answers requests for this name and version; an empty version means the latest.

        Raises:
            ModelNotFound: no such model or version.
            ModelNotReady: it is there but does not answer; the text has the reason.
            InvalidRequest: the version is not a number.
        """
        state = self.find(name, version)
        if state.served is None:
            raise ModelNotReady(
                f"Request for model '{name}': version {state.version} is not at ready state: {state.reason}"
            )
        return state.served

    def find(self, name: str, version: str = "") -> ModelState:
        """The state of this model, ready or not. Raises as `get` does, but for ModelNotReady."""
        state = self._states.get(name)
        if state is None:
            raise ModelNotFound(f"Request for unknown model: '{name}' is not found")
        if version == "":
            return state
        if not (version.isascii() and version.isdigit() and len(version) <= _VERSION_DIGITS):
            raise InvalidRequest(
                f"failed to get model version from specified version string '{version[:40]}' for model '{name}': "
                "expected a whole number, or nothing for the latest version"
            )
        if int(version) != state.version:
            raise ModelNotFound(
                f"Request for unknown model: '{name}' version {int(version)} is not found; version {state.version} is "
                "served"
            )
        return state

    async def drain(self) -> None:
        """Takes no new requests for any model; returns when all that were accepted are answered."""
        await asyncio.gather(*(state.served.batcher.drain() for state in self.states if state.served))

    def close(self) -> None:
        """Frees the runners."""
        for state in self.states:
            if state.served:
                state.served.batcher.close()

    def _open(self, state: ModelState) -> OnnxModel:
        model = OnnxModel(read_model_file(state.path), state.name, state.version, self._options)
        log.info(
            "%s version %d is ready: %s, %d thread(s), %d rows a run in %.2f ms (%s rows/s), runs %s, sha256 %s",
            state.name,
            state.version,
            model.provider,
            model.threads,
            model.run_size,
            model.seconds_per_run * 1000,
            f"{model.rows_per_second:,.0f}",
            "in place" if model.in_place else "in a thread",
            model.sha256,
        )
        if model.notice:
            log.warning("%s: %s", state.name, model.notice)
        return model


def _scan(root: Path) -> Iterator[ModelState]:
    advice = "Make one with: conveyor-export demo --repository " + str(root)
    if not root.is_dir():
        raise StartError(f"The model repository '{root}' is not a folder that exists. {advice}")
    found = False
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        versions = [int(path.name) for path in folder.iterdir() if _is_version(path)]
        if not versions:
            log.warning("%s is not a model: it has no version folder (1, 2, …).", folder)
            continue
        if (folder / "config.pbtxt").exists():
            log.warning(
                "%s: config.pbtxt is not read by this version; everything comes from the ONNX file.", folder.name
            )
        found = True
        version = max(versions)
        yield ModelState(folder.name, version, folder / str(version) / MODEL_FILE)
    if not found:
        raise StartError(f"The model repository '{root}' has no model: no <model>/<version>/{MODEL_FILE}. {advice}")


def _is_version(path: Path) -> bool:
    name = path.name
    return name.isascii() and name.isdigit() and name[0] != "0" and len(name) <= _VERSION_DIGITS and path.is_dir()
