"""A loaded model with all that serving it takes, and how one is made from its folder."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from conveyor_server.core.errors import ModelRejected, ProviderUnavailable
from conveyor_server.core.model import ModelSpec
from conveyor_server.core.responses import ResponseEncoder
from conveyor_server.core.statistics import ModelStatistics
from conveyor_server.engine.batcher import Batcher, Observer, RunReport
from conveyor_server.engine.effective_config import effective_config
from conveyor_server.engine.model_file import read_model_file
from conveyor_server.engine.onnx_model import OnnxModel
from conveyor_server.engine.repository_files import RepositoryFiles
from conveyor_server.engine.serving import ServingDefaults, queue_policy, read_labels, runners, runtime_options
from conveyor_server.engine.signature import output_labels
from conveyor_server.engine.versions import MODEL_FILE
from conveyor_server.engine.warm_up import warm_up
from conveyor_server.generated import model_config_pb2 as pb

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model that answers."""

    model: OnnxModel
    batcher: Batcher
    encoder: ResponseEncoder
    config: pb.ModelConfig
    """How it is served, with nothing left open."""
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Class names by output."""
    statistics: ModelStatistics = field(default_factory=ModelStatistics)

    @cached_property
    def spec(self) -> ModelSpec:
        """Its signature."""
        return self.model.spec


class ModelLoader:
    """Makes served models.

    Args:
        defaults: what the server's settings say of every model.
        observe: makes the observer of a model's runs.
    """

    def __init__(self, defaults: ServingDefaults, observe: Callable[[str], Observer]) -> None:
        self._defaults = defaults
        self._observe = observe

    def open(self, folder: Path, version: int, config: pb.ModelConfig, files: RepositoryFiles) -> OnnxModel:
        """Loads, tunes and warms one version. Blocks; called off the event loop.

        Raises:
            ModelRejected: it cannot be served; the text is the reason.
            ProviderUnavailable: the server's own provider cannot be used.
        """
        path = folder / str(version) / (config.default_model_filename or MODEL_FILE)
        options = runtime_options(config, self._defaults.runtime)
        try:
            model = OnnxModel(read_model_file(path, files), folder.name, version, options, config)
        except ProviderUnavailable as error:
            if config.instance_group:  # this model's wish, and no reason for the others not to be served
                raise ModelRejected(f"instance_group: {error}") from error
            raise
        warm_up(model, config, folder, files)
        log.info(
            "%s version %d is ready: %s, %d thread(s), %d rows a run in %.2f ms (%s rows/s), runs %s, sha256 %s",
            folder.name,
            version,
            model.provider,
            model.threads,
            model.run_size,
            model.seconds_per_run * 1000,
            f"{model.rows_per_second:,.0f}",
            "in place" if model.in_place else "in a thread",
            model.sha256,
            extra={"model": folder.name, "version": version},
        )
        if model.notice:
            log.warning("%s: %s", folder.name, model.notice)
        return model

    def serve(self, model: OnnxModel, folder: Path, config: pb.ModelConfig, files: RepositoryFiles) -> ServedModel:
        """Puts a queue in front of a loaded model. Called in the event loop's thread.

        Raises:
            ModelRejected: the configuration of the queue or a label file is wrong.
        """
        count = runners(config, self._defaults.runners)
        statistics = ModelStatistics()
        observer = _Both(statistics, self._observe(model.spec.name))
        labels = output_labels(model.spec, read_labels(config, folder, files))
        policy = queue_policy(config, self._defaults.queue)
        batcher = Batcher(model, policy, observer, runners=count, mixed=model.spec.has_open_axes)
        return ServedModel(
            model, batcher, ResponseEncoder(model.spec), effective_config(config, model, count), labels, statistics
        )


@dataclass(frozen=True)
class _Both:
    """Tells a run to the model's statistics and to the operators' metrics."""

    statistics: ModelStatistics
    observer: Observer

    def ran(self, report: RunReport) -> None:
        self.statistics.ran(report, time.time_ns() // 1_000_000)
        self.observer.ran(report)
