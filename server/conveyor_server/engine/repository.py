"""The models of one folder. Which are loaded is decided here; how one is, in `model_versions.py`.

Layout: `<repository>/<model>/<version>/model.onnx`, where the version is a whole number from 1, and optionally
`<model>/config.pbtxt`.
"""

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from conveyor_server.core.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    ProviderUnavailable,
    StartError,
)
from conveyor_server.engine.broadcast import Broadcast
from conveyor_server.engine.model_versions import ModelState, ModelVersions
from conveyor_server.engine.repository_files import RepositoryFiles
from conveyor_server.engine.served_model import ModelLoader, ServedModel
from conveyor_server.engine.versions import MODEL_FILE, model_folders, versions_in
from conveyor_server.generated import model_config_pb2 as pb

log = logging.getLogger(__name__)


class Repository:
    """All models of one folder. Used in the event loop's thread.

    Args:
        root: the folder.
        loader: makes served models.
        boundary: the folder that no file may be outside of, where that is not `root`: a local copy has links to others.

    Raises:
        StartError: the folder is missing.
    """

    def __init__(self, root: Path, loader: ModelLoader, boundary: Path | None = None) -> None:
        if not root.is_dir():
            raise StartError(f"The model repository '{root}' is not a folder that exists. {_advice(root)}")
        self._root = root
        self._loader = loader
        self._files = RepositoryFiles(boundary or root)
        self._models: dict[str, ModelVersions] = {}
        self._one_change = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.changes = Broadcast()
        """Rings whenever a version begins or ceases to answer."""
        self.max_request_bytes: int | None = None
        """The most that a request for any model that is served can have; None where nothing limits it."""
        self.loaded = False
        """Whether everything that was wanted at the start has been tried."""

    @property
    def states(self) -> list[ModelState]:
        """Every version that is served, or should be, by model and version."""
        return [state for model in self._models.values() for state in model.states]

    def require_models(self) -> None:
        """Refuses a repository without a model.

        Raises:
            StartError: there is none; the text says how to make one.
        """
        if not self._present():
            layout = f"<model>/<version>/{MODEL_FILE}"
            raise StartError(f"The model repository '{self._root}' has no model: no {layout}. {_advice(self._root)}")

    async def load(self, names: Iterable[str] | None = None) -> None:
        """Loads these models (all without names), one after the other, off the event loop. Bad ones stop no other.

        Raises:
            StartError: a name is no model of the repository, or the server's provider cannot be used.
        """
        async with self._one_change:
            present = self._present()
            if unknown := set(names or ()) - set(present):
                raise StartError(
                    f"No such model in '{self._root}': {', '.join(sorted(unknown))}. There are: {present}."
                )
            for name in present if names is None else sorted(set(names)):
                await self._model(name).refresh()
            self.loaded = True
            self.changes.notify()

    async def poll(self, *, newcomers: bool = True) -> None:
        """Brings what is served in line with the folder: new and changed versions in, vanished ones out.

        Args:
            newcomers: whether to load models, too, that nobody has asked for.
        """
        async with self._one_change:
            try:
                present = self._present()
            except OSError as error:
                log.error("The model repository cannot be read; what is served stays: %s", error)
                return
            for name in present:
                if not (newcomers or (name in self._models and self._models[name].wanted)):
                    continue
                try:
                    await self._model(name).refresh()
                except ProviderUnavailable as error:
                    log.error("%s: %s", name, error)
            for name in set(self._models) - set(present):
                log.info("%s has left the repository.", name)
                self._models.pop(name).unload()

    async def load_model(self, name: str, config: pb.ModelConfig | None = None) -> None:
        """Loads a model, or loads it anew where its files or its configuration changed.

        Raises:
            ModelNotFound: there is no such model.
            InvalidRequest: it cannot be served as asked; what was served before still is.
        """
        async with self._one_change:
            if name not in self._present():
                raise ModelNotFound(f"failed to load '{name}', failed to poll from model repository: no such model")
            model = self._model(name)
            before, model.override = model.override, config
            try:
                refused = await model.refresh()
            except ProviderUnavailable as error:
                refused = str(error)
            if refused:
                model.override = before
                raise InvalidRequest(f"failed to load '{name}': {refused}")

    async def unload_model(self, name: str) -> None:
        """Takes a model out of service; what it has accepted is answered.

        Raises:
            ModelNotFound: no such model was loaded.
        """
        async with self._one_change:
            if name not in self._models:
                raise ModelNotFound(f"failed to unload '{name}': no such model is loaded")
            self._models[name].unload()

    def get(self, name: str, version: str = "") -> ServedModel:
        """The model that answers requests for this name and version; an empty version means the latest that is ready.

        Raises:
            ModelNotFound: no such model or version.
            ModelNotReady: it is there but does not answer; the text has the reason.
            InvalidRequest: the version is not a number.
        """
        if name not in self._models and not self.loaded:
            raise ModelNotReady(f"Request for model '{name}': the models are still loading")
        state = self.find(name, version)
        if state.served is None:
            raise ModelNotReady(
                f"Request for model '{name}': version {state.version} is not at ready state: {state.reason}"
            )
        return state.served

    def find(self, name: str, version: str = "") -> ModelState:
        """The state of this model, ready or not. Raises as `get` does, but for ModelNotReady."""
        if name not in self._models:
            raise ModelNotFound(f"Request for unknown model: '{name}' is not found")
        return self._models[name].find(version)

    async def drain(self) -> None:
        """Takes no new requests for any model; returns when all that were accepted are answered."""
        await asyncio.gather(*(state.served.batcher.drain() for state in self.states if state.served), *self._retiring)

    def close(self) -> None:
        """Frees the runners."""
        for state in self.states:
            if state.served:
                state.served.batcher.close()

    def _present(self) -> list[str]:
        """The folders that have a version, by name."""
        return [folder.name for folder in model_folders(self._root) if versions_in(folder)]

    def _model(self, name: str) -> ModelVersions:
        if name not in self._models:
            folder = self._root / name
            self._models[name] = ModelVersions(folder, self._files, self._loader, self._retire, self._changed)
        return self._models[name]

    def _changed(self) -> None:
        limits = [state.served.spec.max_request_bytes for state in self.states if state.served]
        known = [limit for limit in limits if limit is not None]
        self.max_request_bytes = max(known) if known and len(known) == len(limits) else None
        self.changes.notify()

    def _retire(self, served: ServedModel) -> None:
        """Answers what a model has accepted, then frees it: requests finish on the version that they began with."""

        async def retire() -> None:
            await served.batcher.drain()
            served.batcher.close()

        task = asyncio.create_task(retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def _advice(root: Path) -> str:
    return f"Make one with: conveyor-export demo --repository {root}"
