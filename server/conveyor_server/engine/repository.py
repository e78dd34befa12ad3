"""The models of one folder and their state: loading, ready, or refused with a reason. Swaps versions without a gap.

Layout: `<repository>/<model>/<version>/model.onnx`, where the version is a whole number from 1, and optionally
`<model>/config.pbtxt`.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from conveyor_server.core.errors import (
    ConveyorError,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    ModelRejected,
    ProviderUnavailable,
    StartError,
)
from conveyor_server.engine.broadcast import Broadcast
from conveyor_server.engine.model_config import CONFIG_FILE, check_config, read_config
from conveyor_server.engine.served_model import ModelLoader, ServedModel
from conveyor_server.engine.versions import (
    MODEL_FILE,
    Fingerprint,
    choose_versions,
    fingerprint,
    is_version,
    model_folders,
    versions_in,
)
from conveyor_server.generated import model_config_pb2 as pb

log = logging.getLogger(__name__)


class ModelStatus(StrEnum):
    """How far a version has come, in the words of the protocol."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass
class ModelState:
    """One version of a model, and how far it has come."""

    name: str
    version: int
    status: ModelStatus = ModelStatus.LOADING
    served: ServedModel | None = None
    """Set when the status is READY."""
    reason: str = "it is still loading"
    """Why it does not answer, while it does not."""
    seen: tuple[Fingerprint, bytes] | None = None
    """The file and the configuration that the status is about."""


@dataclass
class _Model:
    folder: Path
    states: dict[int, ModelState] = field(default_factory=dict)
    override: pb.ModelConfig | None = None
    """A configuration that came with a load request, instead of the file."""
    latest: ModelState | None = None
    """What answers when no version is asked for: the newest that is ready, else the newest."""

    def settle(self) -> None:
        """Finds the latest anew."""
        newest = sorted(self.states.values(), key=lambda state: -state.version)
        self.latest = next((state for state in newest if state.served), next(iter(newest), None))


class Repository:
    """All models of one folder. Methods are called in the event loop's thread.

    Args:
        root: the folder.
        loader: makes served models.

    Raises:
        StartError: the folder is missing.
    """

    def __init__(self, root: Path, loader: ModelLoader) -> None:
        if not root.is_dir():
            raise StartError(f"The model repository '{root}' is not a folder that exists. {_advice(root)}")
        self._root = root
        self._loader = loader
        self._models: dict[str, _Model] = {}
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.changes = Broadcast()
        """Rings whenever a version begins or ceases to answer."""
        self.changes = Broadcast()
        """Rings when the state of any model changes."""
        self.loaded = False
        """Whether everything that was wanted at the start has been tried."""

    @property
    def states(self) -> list[ModelState]:
        """Every version that is served, or should be, by model and version."""
        return [model.states[version] for model in self._models.values() for version in sorted(model.states)]

    def require_models(self) -> None:
        """Refuses a repository without a model.

        Raises:
            StartError: there is none; the text says how to make one.
        """
        if not any(versions_in(folder) for folder in model_folders(self._root)):
            raise StartError(
                f"The model repository '{self._root}' has no model: no <model>/<version>/{MODEL_FILE}. "
                f"{_advice(self._root)}"
            )

    async def load(self, names: Iterable[str] | None = None) -> None:
        """Loads these models (all without names) one after the other, off the event loop. Bad ones do not stop the rest.

        Raises:
            ProviderUnavailable: CUDA was asked for and cannot be used.
        """
        async with self._changing:
            for name in self._names() if names is None else names:
                if not versions_in(self._root / name) if (self._root / name).is_dir() else True:
                    log.warning("%s is not a model: it has no version folder (1, 2, …).", self._root / name)
                    continue
                await self._refresh(self._models.setdefault(name, _Model(self._root / name)))
            self.loaded = True
            self.changes.notify()

    async def poll(self) -> None:
        """Brings what is served in line with the folder: new and changed versions in, vanished ones out."""
        async with self._changing:
            present = [name for name in self._names() if versions_in(self._root / name)]
            for name in present:
                try:
                    await self._refresh(self._models.setdefault(name, _Model(self._root / name)))
                except ProviderUnavailable as error:
                    log.error("%s: %s", name, error)
            for name in set(self._models) - set(present):
                log.info("%s has left the repository.", name)
                self._retire(self._models.pop(name).states.values())
            self.changes.notify()

    async def load_model(self, name: str, config: pb.ModelConfig | None = None) -> None:
        """Loads a model, or loads it anew where its files or its configuration changed.

        Raises:
            ModelNotFound: there is no such model.
            InvalidRequest: no version of it can be served as asked; what was served before still is.
        """
        async with self._changing:
            folder = self._root / name
            if name not in self._names() or not versions_in(folder):
                raise ModelNotFound(f"failed to load '{name}': there is no such model in the repository")
            model = self._models.setdefault(name, _Model(folder))
            before, model.override = model.override, config
            try:
                refused = await self._refresh(model)
            except ProviderUnavailable as error:
                refused = str(error)
            self.changes.notify()
            if refused:
                model.override = before
                raise InvalidRequest(f"failed to load '{name}': {refused}")

    async def unload_model(self, name: str) -> None:
        """Takes a model out of service; its accepted requests are answered.

        Raises:
            ModelNotFound: no such model is loaded.
        """
        async with self._changing:
            model = self._models.get(name)
            if model is None:
                raise ModelNotFound(f"failed to unload '{name}': no such model is loaded")
            self._retire(model.states.values())
            for state in model.states.values():
                state.status, state.served, state.reason = ModelStatus.UNAVAILABLE, None, "unloaded"
                state.seen = None
            log.info("%s is unloaded.", name)
            self.changes.notify()

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
        model = self._models.get(name)
        if model is None or model.latest is None:
            raise ModelNotFound(f"Request for unknown model: '{name}' is not found")
        if version == "":
            return model.latest
        if not (is_version(version.lstrip("0") or "1") and version.isascii() and version.isdigit()):
            raise InvalidRequest(
                f"failed to get model version from specified version string '{version[:40]}' for model '{name}': "
                "expected a whole number, or nothing for the latest version"
            )
        state = model.states.get(int(version))
        if state is None:
            known = ", ".join(map(str, sorted(model.states)))
            raise ModelNotFound(
                f"Request for unknown model: '{name}' version {int(version)} is not found; versions: {known}"
            )
        return state

    async def drain(self) -> None:
        """Takes no new requests for any model; returns when all that were accepted are answered."""
        await asyncio.gather(*(state.served.batcher.drain() for state in self.states if state.served), *self._retiring)

    def close(self) -> None:
        """Frees the runners."""
        for state in self.states:
            if state.served:
                state.served.batcher.close()

    def _names(self) -> list[str]:
        return [folder.name for folder in model_folders(self._root)]

    async def _refresh(self, model: _Model) -> str:
        """Loads what should be served and is not, then lets go of what should not. Returns why nothing new is served."""
        name, found = model.folder.name, versions_in(model.folder)
        try:
            config = model.override or read_config(model.folder)
            warnings = check_config(config, name)
        except ModelRejected as error:
            self._reject(model, found[:1], f"{CONFIG_FILE}: {error}")
            return str(error)
        wanted = choose_versions(config.version_policy, found)
        kept: list[int] = []
        refused = "" if wanted.versions else "its version policy wants none of the versions that are there."
        for version in wanted.versions:
            if len(kept) == wanted.enough:
                break
            reason = await self._refresh_version(model, version, config, warnings)
            refused = refused or reason
            if model.states[version].served:
                kept.append(version)
        for version in [version for version in model.states if version not in kept]:
            state = model.states[version]
            if version not in wanted.versions or state.served or state.status is ModelStatus.LOADING:
                self._retire([model.states.pop(version)])
        model.settle()
        return refused

    async def _refresh_version(
        self, model: _Model, version: int, config: pb.ModelConfig, warnings: list[str]
    ) -> str:
        """Loads one version unless nothing changed since it was last tried. Returns why it was refused, if it was."""
        name = model.folder.name
        path = model.folder / str(version) / (config.default_model_filename or MODEL_FILE)
        seen = (fingerprint(path), config.SerializeToString(deterministic=True))
        state = model.states.setdefault(version, ModelState(name, version))
        if state.seen == seen:
            return "" if state.served else state.reason
        state.seen = seen
        if state.served is None:
            state.status, state.reason = ModelStatus.LOADING, "it is still loading"
        model.settle()
        for warning in warnings:
            log.warning("%s: %s", name, warning)
        try:
            opened = await asyncio.to_thread(self._loader.open, model.folder, version, config)
            served = self._loader.serve(opened, model.folder, config)
        except ModelRejected as error:
            self._reject(model, [version], str(error))
            return str(error)
        before, state.served, state.status = state.served, served, ModelStatus.READY
        model.settle()
        self.changes.notify()
        if before:
            self._retire_served(before)
        return ""

    def _reject(self, model: _Model, versions: Iterable[int], reason: str) -> None:
        """Notes why versions are not served anew; one that is served stays."""
        for version in versions:
            state = model.states.setdefault(version, ModelState(model.folder.name, version))
            if state.served:
                log.error("%s version %d was changed and cannot be served so; the old one stays: %s", state.name, version, reason)
            else:
                state.status, state.reason = ModelStatus.UNAVAILABLE, reason
                log.error("%s version %d is not served: %s", state.name, version, reason)
        model.settle()

    def _retire(self, states: Iterable[ModelState]) -> None:
        for state in states:
            if state.served:
                log.info("%s version %d is taken out of service.", state.name, state.version)
                self._retire_served(state.served)

    def _retire_served(self, served: ServedModel) -> None:
        """Answers what a model has accepted, then frees it. Requests finish on the version that they began with."""

        async def retire() -> None:
            await served.batcher.drain()
            served.batcher.close()

        task = asyncio.create_task(retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def _advice(root: Path) -> str:
    return f"Make one with: conveyor-export demo --repository {root}"
