"""Owns the original model as a function on arrays, and the look at what it answers. Knows nothing of ONNX."""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import ExportFailed, InvalidArgument, InvalidInput
from conveyor_exporter.evaluation import evaluation_mode
from conveyor_exporter.network import Network


class ReferenceModel:
    """The model that a file is made from: [batch, *input_shape] to [batch, units], arrays of floating point.

    Our own networks answer in float64, so that a difference is the file's alone: torch's float32 rounds by several 1e-6
    on a sum over ten thousand features. A foreign module may not be able to, and answers as it is.

    Args:
        model: the original, which stays as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self._module = copy.deepcopy(model).double() if isinstance(model, Network) else model

    def __call__(self, images: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Return the answers."""
        first = next(self._module.parameters(), torch.zeros(0))
        with evaluation_mode(self._module):
            outputs = self._module(torch.as_tensor(images, dtype=first.dtype, device=first.device))
        return np.asarray(outputs.cpu().numpy())

    def units(self, input_shape: Shape) -> int:
        """Return how many outputs a sample has, after a look whether they are probabilities.

        The look is at inputs far outside the usual range, on which only a real sigmoid or softmax gives probabilities.

        Raises:
            InvalidInput: a foreign module cannot take inputs of this shape.
            ExportFailed: they are nan, because the weights are broken.
            InvalidArgument: they are not probabilities.
        """
        probe = np.random.default_rng(0).normal(0.0, 100.0, (16, *input_shape)).astype(np.float32)
        try:
            outputs = self(probe)
        except Exception as error:  # a foreign module may raise anything
            if isinstance(self._module, Network):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise InvalidInput(
                f"the module cannot take [batch, {', '.join(map(str, input_shape))}]: {reason} "
                "If it takes its channels first, turn the axes in front of it (on the command line: --channels-first)."
            ) from error
        return _units(outputs)


def _units(outputs: NDArray[np.floating[Any]]) -> int:
    if outputs.ndim != 2:
        raise InvalidArgument(f"a classifier's answer is [batch, units]; this model gives {list(outputs.shape)}.")
    outputs = outputs[np.isfinite(outputs).all(axis=1)]  # a sound model may overflow on some inputs so far out
    if not len(outputs):
        raise ExportFailed("the model answers nan; its weights are broken, perhaps by a training that diverged.")
    if outputs.min() < 0 or outputs.max() > 1:
        raise InvalidArgument(
            f"the model's answers reach from {outputs.min():.3g} to {outputs.max():.3g}, so they are no probabilities. "
            "End it with activation='sigmoid' (one unit) or activation='softmax' (a unit for each class); "
            "on the command line of a torch module: --activation."
        )
    if outputs.shape[1] > 1 and not np.allclose(outputs.sum(axis=1), 1, atol=1e-3):
        raise InvalidArgument("the model's answers do not add up to 1. End it with activation='softmax'.")
    return int(outputs.shape[1])
