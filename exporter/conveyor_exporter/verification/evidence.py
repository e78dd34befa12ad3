"""Owns what a comparison of a file with its model found: as data, as a table, as evidence for the file.

Runs nothing, and judges only by the limits that it is given.
"""

import importlib.metadata
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

FAR_OUTSIDE = "far outside"
"""Inputs that no client sends on purpose; they have a limit of their own."""


@dataclass(frozen=True)
class Comparison:
    """One run of the file beside one run of the model.

    Attributes:
        inputs: what went in: `random`, `zeros`, `ones`, `extremes`, `far outside` or `data`.
        batch: how many samples the file got at once.
        optimized: whether onnxruntime's graph optimisations were on.
        difference: largest absolute difference of a probability; inf when there was nothing to compare, nan when an
            output was nan.
        limit: the largest difference that counts as equal.
        output: name of the file's output; logits are compared as the probabilities that follow from them.
        relative: largest difference in relation to the model's answer.
        agreement: share of samples for which both mean the same class.
        note: why there was nothing to compare, else empty.
    """

    inputs: str
    batch: int
    optimized: bool
    difference: float
    limit: float
    output: str = ""
    relative: float = 0.0
    agreement: float = 1.0
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the limit; nan is above any limit."""
        return self.difference <= self.limit


@dataclass(frozen=True)
class Accuracy:
    """How often the model and the file are right about the same labelled data.

    Attributes:
        samples: how many pictures.
        model: share that the model gets right.
        file: share that the file gets right.
        max_drop: how much lower the file's share may be.
    """

    samples: int
    model: float
    file: float
    max_drop: float

    @property
    def passed(self) -> bool:
        """Whether the file loses no more than it may."""
        return round(self.model - self.file, 9) <= self.max_drop

    def __str__(self) -> str:
        return f"accuracy {self.file:.2%} (model {self.model:.2%}) on {self.samples:,} labelled samples"


@dataclass(frozen=True)
class Verification:
    """What the comparison of an ONNX file with its model found.

    Attributes:
        comparisons: one for each kind of inputs, batch size, optimisation level and output.
        accuracy: what labelled data say, when there were some.
        calibration_samples: how many other pictures an int8 file was calibrated with.
        runtime: what ran the file, such as `onnxruntime 1.32.0`.
    """

    comparisons: tuple[Comparison, ...]
    accuracy: Accuracy | None = None
    calibration_samples: int = 0
    runtime: str = ""

    @property
    def failed(self) -> tuple[Comparison, ...]:
        """The comparisons above their limits."""
        return tuple(case for case in self.comparisons if not case.passed)

    @property
    def passed(self) -> bool:
        """Whether all is within its limits, and there was at least one comparison."""
        return bool(self.comparisons) and not self.failed and (self.accuracy is None or self.accuracy.passed)

    @property
    def worst(self) -> float:
        """The largest difference; inf when one is nan."""
        return _largest(case.difference for case in self.comparisons)

    @property
    def limit(self) -> float:
        """The limit of usual inputs, the smallest of all."""
        return min((case.limit for case in self.comparisons), default=0.0)

    def __str__(self) -> str:
        """Return the verdict, and when it is bad what failed, as a table."""
        if self.passed:
            within = f" (limit {self.limit:.0e})" if math.isfinite(self.limit) else ""
            verdict = f"{len(self.comparisons)} comparisons, largest difference {self._usual_worst:.1e}{within}"
            calibrated = f", calibrated with {self.calibration_samples} others" if self.calibration_samples else ""
            return verdict if self.accuracy is None else f"{verdict}, {self.accuracy}{calibrated}"
        lines = [_table(self.failed, len(self.comparisons))] if self.failed else []
        if self.accuracy is not None and not self.accuracy.passed:
            lines.append(
                f"{self.accuracy}: {100 * (self.accuracy.model - self.accuracy.file):.2f} points lower, "
                f"at most {100 * self.accuracy.max_drop:.2f} are allowed"
            )
        return "\n".join(lines) or "nothing was compared"

    @property
    def _usual_worst(self) -> float:
        """The largest difference on inputs that the model is made for."""
        return _largest(case.difference for case in self.comparisons if case.inputs != FAR_OUTSIDE)

    def to_json(self) -> str:
        """Return the evidence that goes into the file: numbers with two digits, versions of what was run."""
        kinds = dict.fromkeys(case.inputs for case in self.comparisons)
        evidence: dict[str, object] = {
            "batches": sorted({case.batch for case in self.comparisons}),
            "comparisons": len(self.comparisons),
            "inputs": {kind: self._of_kind(kind) for kind in kinds},
            "limit": _finite(self.limit),
            "outputs": sorted({case.output for case in self.comparisons}),
            "runtime": self.runtime,
            "versions": {name: importlib.metadata.version(name) for name in ("onnx", "torch")},
            "worst_difference": _finite(_rounded(self._usual_worst)),
        }
        if self.accuracy is not None:
            evidence["accuracy"] = {
                "file": round(self.accuracy.file, 6),
                "max_drop": self.accuracy.max_drop,
                "model": round(self.accuracy.model, 6),
                "samples": self.accuracy.samples,
            }
        if self.calibration_samples:
            evidence["calibration_samples"] = self.calibration_samples
        return json.dumps(evidence, sort_keys=True)

    def _of_kind(self, kind: str) -> dict[str, float | None]:
        cases = [case for case in self.comparisons if case.inputs == kind]
        return {
            "difference": _finite(_rounded(_largest(case.difference for case in cases))),
            "relative_difference": _finite(_rounded(_largest(case.relative for case in cases))),
            "top1_agreement": round(min(case.agreement for case in cases), 6),
        }


def _table(failed: tuple[Comparison, ...], count: int) -> str:
    lines = [f"{len(failed)} of {count} comparisons differ by more than their limit:"]
    lines.append(
        f"  {'inputs':11}  {'batch':>5}  {'optimisations':13}  {'output':13}  {'difference':>10}  {'limit':>7}"
    )
    for case in failed:
        level = "on" if case.optimized else "off"
        lines.append(
            f"  {case.inputs:11}  {case.batch:5}  {level:13}  {case.output:13}  {case.difference:10.2e}  "
            f"{case.limit:7.0e}  {case.note}".rstrip()
        )
    return "\n".join(lines)


def _largest(numbers: Iterable[float]) -> float:
    return max((math.inf if math.isnan(number) else number for number in numbers), default=math.inf)


def _rounded(number: float) -> float:
    return float(f"{number:.1e}")


def _finite(number: float) -> float | None:
    """Return the number when JSON has it, else None: there is no limit, or the difference was not measured."""
    return number if math.isfinite(number) else None
