"""Owns what a model says to labelled pictures: right, wrong, and how sure it is. Draws and writes nothing."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from conveyor_exporter.evaluation import evaluation_mode
from conveyor_exporter.network import Network
from conveyor_exporter.onnx_file.metadata import Metadata, Task
from conveyor_exporter.pictures.labelled_data import LabelledData
from conveyor_exporter.report.figures import Mistake


@dataclass(frozen=True)
class Answers:
    """What the model says to the test pictures.

    Attributes:
        labels: the names of the classes.
        true: class numbers, int64 [samples].
        predicted: class numbers, int64 [samples].
        sure: the probability of the predicted class, float64 [samples].
        pictures: [samples, height, width, channels], 0 to 1, to look at.
    """

    labels: tuple[str, ...]
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    sure: NDArray[np.float64]
    pictures: NDArray[np.float64]

    @classmethod
    def of(cls, model: Network, test: LabelledData, metadata: Metadata) -> "Answers":
        """Ask a model about labelled pictures, and read its answers as its file says."""
        with evaluation_mode(model):
            pieces = torch.split(torch.from_numpy(test.images), 256)
            outputs = torch.cat([model(piece).cpu().double() for piece in pieces]).numpy()
        predicted = outputs.argmax(1).astype(np.int64)
        if metadata.task is Task.BINARY:
            predicted = (outputs[:, 0] > metadata.threshold).astype(np.int64)
            outputs = np.stack([1 - outputs[:, 0], outputs[:, 0]], axis=1)
        low, high = metadata.input_range
        pictures = np.clip((test.images.astype(np.float64) - low) / (high - low), 0, 1)
        return cls(metadata.labels, test.labels, predicted, outputs[np.arange(len(test)), predicted], pictures)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which of them are true, bool [samples]."""
        return np.equal(self.true, self.predicted)

    def confusion(self) -> NDArray[np.int64]:
        """Return how often each true class, a row, got each answer, a column: int64 [classes, classes]."""
        counts = np.zeros((len(self.labels), len(self.labels)), np.int64)
        np.add.at(counts, (self.true, self.predicted), 1)
        return counts

    def exemplary(self) -> int:
        """Return the row of the picture that the model is rightly most sure of; with two classes, one of the second."""
        wanted = self.right & ((self.true == 1) | (len(self.labels) > 2))
        return int(np.argmax(np.where(wanted, self.sure, -1)))

    def mistakes(self, most: int) -> list[Mistake]:
        """Return the mistakes of which the model is most sure, the surest first."""
        rows = np.flatnonzero(~self.right)
        worst = rows[np.argsort(-self.sure[rows], kind="stable")][:most]
        return [
            Mistake(
                self.pictures[row], self.labels[self.true[row]], self.labels[self.predicted[row]], float(self.sure[row])
            )
            for row in worst
        ]
