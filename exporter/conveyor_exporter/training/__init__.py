"""The training of a network as Keras trains one: batches, steps, stopping early, going on from a checkpoint."""

from conveyor_exporter.training.checkpoint import Checkpoint
from conveyor_exporter.training.early_stopping import EarlyStopping

__all__ = ["Checkpoint", "EarlyStopping"]
