"""From a classifier's probabilities to labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from conveyor_server.core.model import Array


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image."""

    label: str
    probability: float
    """Of this label, between 0 and 1."""


def read_predictions(probabilities: Array, labels: Sequence[str], threshold: float = 0.5) -> list[Prediction]:
    """The most probable label of each row.

    Args:
        probabilities: `[batch, classes]`, or `[batch, 1]` from a binary model: the probability of the second label.
        labels: one for each class, two for a binary model; class numbers stand in where there are none.
        threshold: above it, a binary model's answer is the second label.

    Raises:
        ValueError: the shape is not `[batch, classes]`, or the labels are not as many as the classes.
    """
    if probabilities.ndim != 2:
        raise ValueError(f"Expected probabilities of shape [batch, classes], got {list(probabilities.shape)}.")
    classes = max(2, probabilities.shape[1])
    names = list(labels) or [str(number) for number in range(classes)]
    if len(names) != classes:
        raise ValueError(f"The model has {classes} classes and {len(names)} labels ({', '.join(names)}).")
    predictions = []
    for row in probabilities.tolist():
        if len(row) == 1:
            positive = row[0] > threshold
            predictions.append(Prediction(names[positive], row[0] if positive else 1 - row[0]))
        else:
            best = max(range(classes), key=row.__getitem__)
            predictions.append(Prediction(names[best], row[best]))
    return predictions
