"""Owns the running of an ONNX file beside the model that it was made from, and returns what differs as data.

Whether a difference is an error is for the caller to say. Knows no layer; torch only as a function to compare with.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import MissingDependency
from conveyor_exporter.onnx_file.runtime import Session, runtime_version
from conveyor_exporter.verification.conditions import BATCHES, Conditions, Values, made_up_inputs
from conveyor_exporter.verification.evidence import FAR_OUTSIDE, Accuracy, Comparison, Verification

FLOOR = 1e-6
"""Smaller answers than this are taken as this when a difference is put in relation to them."""

Reference = Callable[[NDArray[Any]], NDArray[np.floating[Any]]]
"""The model that the file was made from: float [batch, *input_shape] to [batch, units], in any precision."""


def verify(
    content: bytes, reference: Reference, input_shape: Shape, conditions: Conditions | None = None
) -> Verification:
    """Compare an ONNX file with its model on several inputs, batch sizes and optimisation levels.

    Args:
        content: the bytes of the ONNX file.
        reference: the original model, not the form of it that was exported.
        input_shape: the shape of one sample, without the batch axis.
        conditions: what to compare on, and how strictly; None is for a float32 file and pictures from 0 to 1.

    Returns:
        All comparisons, also when they are bad: nothing is raised for a difference or for a file that does not run.

    Raises:
        InvalidInput: the data have another shape.
        MissingDependency: onnxruntime is not installed.
    """
    conditions = conditions or Conditions()
    judge = _Judge(conditions, reference)
    for optimized in (False, True):
        run = _runner(content, optimized)
        for kind, sent in made_up_inputs(input_shape, conditions):
            judge.compare(run, kind, sent, len(sent), optimized)
        if conditions.data is not None:
            sent = conditions.to_sent(conditions.data.images)
            for batch in BATCHES[:-1]:
                judge.compare(run, "data", sent[:batch], batch, optimized)
            judge.compare(run, "data", sent, BATCHES[-1], optimized)
    return Verification(tuple(judge.comparisons), judge.accuracy, runtime=runtime_version())


def classes(probabilities: Values, threshold: float) -> NDArray[np.int64]:
    """Return the class that each row of [samples, units] means; with one unit, 1 above the threshold."""
    if probabilities.ndim == 2 and probabilities.shape[1] > 1:
        return np.asarray(np.argmax(probabilities, axis=1), np.int64)
    return np.asarray(probabilities.reshape(len(probabilities), -1)[:, 0] > threshold, np.int64)


class _Judge:
    """Compares run after run, and asks the model only once for the same inputs."""

    def __init__(self, conditions: Conditions, reference: Reference) -> None:
        self.comparisons: list[Comparison] = []
        self.accuracy: Accuracy | None = None
        self._conditions, self._reference = conditions, reference
        self._wanted: dict[tuple[str, int, int], Values] = {}

    def compare(self, run: "_Runner", kind: str, sent: Values, batch: int, optimized: bool) -> None:
        """Run the file on `sent`, `batch` samples at a time, and note how its outputs compare."""
        key = (kind, batch, len(sent))
        if key not in self._wanted:
            self._wanted[key] = _in_batches(self._reference, self._conditions.to_images(sent), BATCHES[-1])
        wanted, limit = self._wanted[key], self._conditions.limit_for(kind)
        try:
            outputs = run(sent, batch)
        except Exception as error:  # onnxruntime raises its own classes, which share no other root
            case = Comparison(kind, batch, optimized, math.inf, limit, "", math.inf, 0.0, _first_line(error))
            self.comparisons.append(case)
            return
        for name, got in outputs.items():
            case = self._comparison(kind, batch, optimized, limit, name, got, wanted)
            self.comparisons.append(case)
        if kind == "data" and len(sent) == len(self._conditions.data or ()):
            self._measure(next(iter(outputs.values())))

    def _comparison(
        self, kind: str, batch: int, optimized: bool, limit: float, name: str, got: Values, wanted: Values
    ) -> Comparison:
        if got.shape != wanted.shape:
            note = f"shape {list(got.shape)} instead of {list(wanted.shape)}"
            return Comparison(kind, batch, optimized, math.inf, limit, name, math.inf, 0.0, note)
        if kind == FAR_OUTSIDE:  # where the model itself overflows there is nothing to compare
            sound = np.isfinite(wanted).all(axis=tuple(range(1, wanted.ndim)))
            got, wanted = got[sound], wanted[sound]
        if not got.size:
            return Comparison(kind, batch, optimized, 0.0, limit, name)
        difference = np.abs(got.astype(np.float64) - wanted)
        relative = float(np.max(difference / np.maximum(np.abs(wanted), FLOOR)))
        threshold = self._conditions.threshold
        agreement = float(np.mean(classes(got, threshold) == classes(wanted, threshold)))
        return Comparison(kind, batch, optimized, float(np.max(difference)), limit, name, relative, agreement)

    def _measure(self, got: Values) -> None:
        """Note the accuracies on all labelled data; of two optimisation levels the worse one counts."""
        data, threshold = self._conditions.data, self._conditions.threshold
        if data is None or len(got) != len(data):
            return
        if self.accuracy is None:
            right = classes(_in_batches(self._reference, data.images, BATCHES[-1]), threshold) == data.labels
            model, file = float(right.mean()), 1.0
        else:
            model, file = self.accuracy.model, self.accuracy.file
        file = min(file, float((classes(got, threshold) == data.labels).mean()))
        self.accuracy = Accuracy(len(data), model, file, self._conditions.max_drop)


_Runner = Callable[[Values, int], Mapping[str, Values]]


def _runner(content: bytes, optimized: bool) -> _Runner:
    """Return the file as a function of inputs and batch size, its logits turned into probabilities."""
    try:
        session = Session(content, optimized)
    except MissingDependency:
        raise
    except Exception as error:  # whatever is wrong with the file, it is a finding
        reason = _first_line(error)

        def refuse(sent: Values, batch: int) -> Mapping[str, Values]:
            raise ValueError(f"cannot be loaded: {reason}")

        return refuse

    def run(sent: Values, batch: int) -> Mapping[str, Values]:
        parts = [session.run(sent[start : start + batch]) for start in range(0, len(sent), batch)]
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {name: _probabilities(values) if name == "logits" else values for name, values in outputs.items()}

    return run


def _in_batches(reference: Reference, images: Values, batch: int) -> Values:
    return np.concatenate([reference(images[start : start + batch]) for start in range(0, len(images), batch)])


def _probabilities(logits: Values) -> Values:
    """Return the sigmoid of [samples, 1], the softmax of [samples, units]; in float64."""
    values = logits.astype(np.float64)
    if values.shape[-1] == 1:
        values = np.concatenate([np.zeros_like(values), values], axis=-1)
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    shares = powers / powers.sum(axis=-1, keepdims=True)
    return np.asarray(shares[..., 1:] if logits.shape[-1] == 1 else shares)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
