"""Owns the comparison of an ONNX file with the model that it was made from, and returns data.

Whether a difference is an error is for the caller to say. Knows no layer; torch only as a function to compare with.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidInput, MissingDependency
from conveyor_exporter.runtime import Session

BATCHES = (1, 2, 3, 64)
LIMIT = 1e-5
"""Largest difference of a probability, in float32 on the processor; what is usual is some 1e-7."""

Images = NDArray[np.float32]
Reference = Callable[[Images], NDArray[np.floating[Any]]]
"""The model that the file was made from: float32 [batch, *input_shape] to [batch, units], in any precision."""


@dataclass(frozen=True)
class Comparison:
    """One run of the file beside one run of the model.

    Attributes:
        inputs: what went in: `random`, `zeros`, `ones` or `real`.
        batch: how many samples.
        optimized: whether onnxruntime's graph optimisations were on.
        difference: largest absolute difference of an output; inf when there was nothing to compare, nan when an output
            was nan.
        note: why there was nothing to compare, else empty.
    """

    inputs: str
    batch: int
    optimized: bool
    difference: float
    note: str = ""


@dataclass(frozen=True)
class Verification:
    """What the comparison of an ONNX file with its model found.

    Attributes:
        comparisons: one for each kind of inputs, batch size and optimisation level.
        limit: the largest difference that counts as equal.
    """

    comparisons: tuple[Comparison, ...]
    limit: float

    @property
    def failed(self) -> tuple[Comparison, ...]:
        """The comparisons above the limit; nan is above any limit."""
        return tuple(case for case in self.comparisons if not case.difference <= self.limit)

    @property
    def passed(self) -> bool:
        """Whether every difference is within the limit, and there was at least one comparison."""
        return bool(self.comparisons) and not self.failed

    @property
    def worst(self) -> float:
        """The largest difference; inf when one is nan."""
        return max(math.inf if math.isnan(case.difference) else case.difference for case in self.comparisons)

    def __str__(self) -> str:
        """Return the verdict, and when it is bad a table of the comparisons that failed."""
        if self.passed:
            return f"{len(self.comparisons)} comparisons, largest difference {self.worst:.1e} (limit {self.limit:.0e})"
        lines = [f"{len(self.failed)} of {len(self.comparisons)} comparisons differ by more than {self.limit:.0e}:"]
        lines.append(f"  {'inputs':8} {'batch':>5}  {'optimisations':13}  {'difference':>10}")
        for case in self.failed:
            level = "on" if case.optimized else "off"
            lines.append(f"  {case.inputs:8} {case.batch:5}  {level:13}  {case.difference:10.2e}  {case.note}".rstrip())
        return "\n".join(lines)


def verify(
    content: bytes,
    reference: Reference,
    input_shape: Shape,
    *,
    input_range: tuple[float, float] = (0.0, 1.0),
    real_inputs: Images | None = None,
    limit: float = LIMIT,
) -> Verification:
    """Compare an ONNX file with its model on several inputs, batch sizes and optimisation levels.

    Args:
        content: the bytes of the ONNX file.
        reference: the original model, not the form of it that was exported.
        input_shape: the shape of one sample, without the batch axis.
        input_range: where random inputs lie.
        real_inputs: float32 [samples, *input_shape], taken in turn; None leaves them out.
        limit: the largest absolute difference that counts as equal.

    Returns:
        All comparisons, also when they are bad: nothing is raised for a difference or for a file that does not run.

    Raises:
        InvalidInput: the real inputs have another shape.
        MissingDependency: onnxruntime is not installed.
    """
    if real_inputs is not None and real_inputs.shape[1:] != input_shape:
        raise InvalidInput(f"`real_inputs` must be [samples, *{input_shape}], got {list(real_inputs.shape)}.")
    expected = [(kind, images, reference(images)) for kind, images in _inputs(input_shape, input_range, real_inputs)]
    comparisons: list[Comparison] = []
    for optimized in (False, True):
        run = _runner(content, optimized)
        for kind, images, wanted in expected:
            difference, note = _difference(run, images, wanted)
            comparisons.append(Comparison(kind, len(images), optimized, difference, note))
    return Verification(tuple(comparisons), limit)


def _inputs(shape: Shape, input_range: tuple[float, float], real_inputs: Images | None) -> Iterator[tuple[str, Images]]:
    generator = np.random.default_rng(0)
    for batch in BATCHES:
        yield "random", generator.uniform(*input_range, (batch, *shape)).astype(np.float32)
        yield "zeros", np.zeros((batch, *shape), np.float32)
        yield "ones", np.ones((batch, *shape), np.float32)
        if real_inputs is not None and len(real_inputs):
            yield "real", np.ascontiguousarray(np.resize(real_inputs, (batch, *shape)), np.float32)


def _runner(content: bytes, optimized: bool) -> Reference:
    try:
        return Session(content, optimized).run
    except MissingDependency:
        raise
    except Exception as error:  # whatever is wrong with the file, it is a finding
        reason = _first_line(error)

        def refuse(images: Images) -> Images:
            raise ValueError(f"cannot be loaded: {reason}")

        return refuse


def _difference(run: Reference, images: Images, wanted: NDArray[np.floating[Any]]) -> tuple[float, str]:
    try:
        got = run(images)
    except Exception as error:  # onnxruntime raises its own classes, which share no other root
        return math.inf, _first_line(error)
    if got.shape != wanted.shape:
        return math.inf, f"shape {list(got.shape)} instead of {list(wanted.shape)}"
    return float(np.max(np.abs(got.astype(np.float64) - wanted.astype(np.float64)), initial=0.0)), ""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
