"""The versions of one model: which are served, which are refused and why, and how new ones take over without a gap."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from conveyor_server.core.errors import InvalidRequest, ModelNotFound, ModelRejected, ProviderUnavailable
from conveyor_server.engine.fingerprint import Fingerprint, fingerprint
from conveyor_server.engine.model_config import CONFIG_FILE, check_config, read_config
from conveyor_server.engine.repository_files import RepositoryFiles
from conveyor_server.engine.served_model import ModelLoader, ServedModel
from conveyor_server.engine.versions import (
    MODEL_FILE,
    choose_versions,
    is_version,
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
    """The file and the configuration that were tried last."""


class ModelVersions:
    """One model of the repository. Changed by one caller at a time, in the event loop's thread.

    Args:
        folder: the model's folder.
        files: reads what is in it.
        loader: makes served models.
        retire: called with each served model that is served no more.
        changed: called whenever a version begins or ceases to answer.
    """

    def __init__(
        self,
        folder: Path,
        files: RepositoryFiles,
        loader: ModelLoader,
        retire: Callable[[ServedModel], None],
        changed: Callable[[], None],
    ) -> None:
        self.name = folder.name
        self.override: pb.ModelConfig | None = None
        """A configuration that came with a load request, and stands for the file."""
        self.wanted = False
        """Whether somebody wants it served, be it possible or not."""
        self._folder = folder
        self._files = files
        self._loader = loader
        self._retire = retire
        self._changed = changed
        self._states: dict[int, ModelState] = {}
        self._latest: ModelState | None = None
        self._complaint = ""

    @property
    def states(self) -> list[ModelState]:
        """Every version that is served, or should be."""
        return [self._states[version] for version in sorted(self._states)]

    def find(self, version: str) -> ModelState:
        """The state of a version; an empty one means the newest that answers, or the newest at all.

        Raises:
            ModelNotFound: no such version.
            InvalidRequest: the version is not a number.
        """
        if version == "" and self._latest is not None:
            return self._latest
        if version and not is_version(version):
            raise InvalidRequest(
                f"failed to get model version from specified version string '{version[:40]}' for model '{self.name}': "
                "expected a whole number from 1, or nothing for the latest version"
            )
        state = self._states.get(int(version or 0))
        if state is None:
            known = ", ".join(str(known.version) for known in self.states) or "none"
            raise ModelNotFound(
                f"Request for unknown model: '{self.name}' version {version} is not found; versions: {known}"
            )
        return state

    async def refresh(self) -> str:
        """Loads what should be served and is not, then lets go of what should not be.

        Returns why the best version is not served as it is on disk; nothing when it is.

        Raises:
            ProviderUnavailable: the server's own provider cannot be used.
        """
        self.wanted = True
        found = versions_in(self._folder)
        try:
            config = self.override or read_config(self._folder, self._files)
            ignored = check_config(config, self.name)
        except ModelRejected as error:
            return self._complain(found, str(error) if self.override else f"{CONFIG_FILE}: {error}")
        self._complaint = ""
        wanted = choose_versions(config.version_policy, found)
        refused = "" if wanted.versions else "its version policy wants none of the versions that are there."
        kept: set[int] = set()
        for version in wanted.versions:
            if len(kept) == wanted.enough:
                break
            refused = await self._try(version, config, ignored) or refused
            if self._states[version].served:
                kept.add(version)
        for state in self.states:
            if state.version not in kept and (state.served or state.version not in wanted.versions):
                self._release(self._states.pop(state.version))
        self._settle()
        return refused

    def unload(self) -> None:
        """Takes all versions out of service; they stay known."""
        self.wanted = False
        for state in self.states:
            self._release(state)
            state.status, state.reason, state.seen = ModelStatus.UNAVAILABLE, "unloaded", None
        self._settle()

    async def _try(self, version: int, config: pb.ModelConfig, ignored: Iterable[str]) -> str:
        """Loads a version unless it was tried as it is already. Returns why it is refused, if it is."""
        state = self._states.setdefault(version, ModelState(self.name, version))
        path = self._folder / str(version) / (config.default_model_filename or MODEL_FILE)
        seen = (fingerprint(path), config.SerializeToString(deterministic=True))
        if state.seen == seen:
            return "" if state.served else state.reason
        state.seen = seen
        if state.served is None:
            state.status, state.reason = ModelStatus.LOADING, "it is still loading"
            self._settle()
        for text in ignored:
            log.warning("%s: %s", self.name, text)
        try:
            model = await asyncio.to_thread(self._loader.open, self._folder, version, config, self._files)
            served = self._loader.serve(model, self._folder, config, self._files)
        except ModelRejected as error:
            return self._reject(state, str(error))
        except ProviderUnavailable:
            raise
        except Exception:  # whatever a broken or hostile file makes a library raise, the other models are served
            log.exception("Loading %s version %d failed. This is a bug.", state.name, state.version)
            return self._reject(state, "it could not be loaded; the server's log has the details.")
        before, state.served, state.status = state.served, served, ModelStatus.READY
        self._settle()
        if before:
            self._retire(before)
        return ""

    def _reject(self, state: ModelState, reason: str) -> str:
        """Notes why a version is not served as it is on disk; what was served before stays."""
        if state.served:
            text = "%s version %d was changed and cannot be served so; what was served before still is: %s"
        else:
            text = "%s version %d is not served: %s"
            state.status, state.reason = ModelStatus.UNAVAILABLE, reason
        log.error(text, state.name, state.version, reason, extra={"model": state.name, "version": state.version})
        self._settle()
        return reason

    def _complain(self, found: list[int], reason: str) -> str:
        """Refuses the newest version for what is wrong with the whole model; says so once, not at every look."""
        state = self._states.setdefault(found[0], ModelState(self.name, found[0]))
        if reason != self._complaint:
            self._complaint = reason
            self._reject(state, reason)
        return reason

    def _release(self, state: ModelState) -> None:
        if state.served:
            fields = {"model": state.name, "version": state.version}
            log.info("%s version %d is taken out of service.", state.name, state.version, extra=fields)
            self._retire(state.served)
            state.served = None

    def _settle(self) -> None:
        newest = self.states[::-1]
        self._latest = next((state for state in newest if state.served), newest[0] if newest else None)
        self._changed()
