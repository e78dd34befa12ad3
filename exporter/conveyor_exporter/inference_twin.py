"""Owns the rewriting of a network into the form that exports well: channels first inside, one turn of the axes.

Knows the layers, nothing of ONNX. Whether the twin still gives the network's answers is for `verify` to say.
"""

import copy

import torch
from torch import nn

from conveyor_exporter.arguments import Shape
from conveyor_exporter.layers import Dense, Flatten, Layer, SpatialLayer
from conveyor_exporter.network import Network

CHANNELS_FIRST = (0, 3, 1, 2)
CHANNELS_LAST = (0, 2, 3, 1)


class Turn(nn.Module):
    """Puts the axes of a tensor in another order."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the same values, axes in the new order."""
        return inputs.permute(self.axes)


class InferenceTwin(nn.Module):
    """A copy of a network for inference: takes and gives what the network does, with fewer turns of the axes.

    The axes are turned to channels first once, in front of the first spatial layer. A Flatten behind it lays the
    values in (channels, height, width) order; the next Dense gets its kernel's rows in that order too, so nothing is
    turned back. Where that does not work, the axes are turned back first.

    Its parts carry the names of the layers; the network itself is not changed.

    Args:
        network: a built network.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._turned = False  # whether the tensor is channels first at this point of the walk
        self._flattened: Shape | None = None  # the (height, width, channels) that a channels-first Flatten came from
        for layer in network.layers:
            self._append(copy.deepcopy(layer))
        self._turn_back("output")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs, float32, for [batch, *input_shape], float32."""
        for part in self.children():
            inputs = part(inputs)
        return inputs

    def _append(self, layer: Layer) -> None:
        if isinstance(layer, SpatialLayer):
            self._turn(layer.name)
            layer.channels_first = True
        elif isinstance(layer, Flatten) and self._turned and layer.input_shape is not None:
            height, width, channels = self._flattened = layer.input_shape
            layer.input_shape, self._turned = (channels, height, width), False
        elif isinstance(layer, Dense) and self._flattened is not None:
            self._fold_order(layer, self._flattened)
            self._flattened = None
        else:
            self._turn_back(layer.name)
        self.add_module(layer.name, layer)

    def _turn(self, before: str) -> None:
        if not self._turned:
            self.add_module(f"{before}/channels_first", Turn(CHANNELS_FIRST))
            self._turned = True

    def _turn_back(self, before: str) -> None:
        if self._turned:
            self.add_module(f"{before}/channels_last", Turn(CHANNELS_LAST))
        if self._flattened is not None:
            height, width, channels = self._flattened
            self.add_module(f"{before}/unflatten", nn.Unflatten(1, (channels, height, width)))
            self.add_module(f"{before}/channels_last", Turn(CHANNELS_LAST))
            self.add_module(f"{before}/flatten", nn.Flatten())
        self._turned, self._flattened = False, None

    @staticmethod
    def _fold_order(dense: Dense, shape: Shape) -> None:
        """Reorder the columns of torch's [units, features] kernel from (h, w, c) to (c, h, w) features."""
        kernel = dense.kernel.detach().reshape(dense.units, *shape)
        dense.kernel.data = kernel.permute(0, 3, 1, 2).reshape(dense.units, -1).contiguous()
