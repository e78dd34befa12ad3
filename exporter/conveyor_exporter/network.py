"""Owns the structure of a model: an ordered chain of layers, their names, shapes and forward pass.

Knows nothing of training and of ONNX.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from rich.console import Console
from torch import nn

from conveyor_exporter.arguments import Shape, layer_name, sample_shape
from conveyor_exporter.errors import InvalidArgument, InvalidArgumentType, InvalidInput, NotBuilt
from conveyor_exporter.layers.base import Layer, wrong_input
from conveyor_exporter.layers.input import Input
from conveyor_exporter.summary import summary_table


class Network(nn.Module):
    """A chain of layers: float32 [batch, *input_shape] to float32 [batch, *output_shape], images channels last.

    Args:
        layers: the first layers, as if given to `add` one by one; an `Input` may stand before them.
        name: how the summary calls the model.

    Raises:
        InvalidArgument: a layer does not fit behind the one before it.
    """

    def __init__(self, layers: Iterable[Layer | Input] = (), name: str | None = None) -> None:
        super().__init__()
        self._input: Input | None = None
        self.name = layer_name(name, type(self).__name__) if name is not None else type(self).__name__.lower()
        for layer in layers:
            self.add(layer)

    @property
    def layers(self) -> list[Layer]:
        """The layers in order."""
        return [module for module in self.children() if isinstance(module, Layer)]

    @property
    def built(self) -> bool:
        """Whether the input shape is known, so that all layers have their weights."""
        return bool(self.layers) and all(layer.built for layer in self.layers)

    @property
    def input_shape(self) -> Shape:
        """The shape of one sample, without the batch axis.

        Raises:
            NotBuilt: it is not known yet.
        """
        return self._shape(self.layers[0].input_shape if self.layers else None)

    @property
    def output_shape(self) -> Shape:
        """The shape of one output, without the batch axis.

        Raises:
            NotBuilt: it is not known yet.
        """
        return self._shape(self.layers[-1].output_shape if self.layers else None)

    def add(self, layer: Layer | Input) -> None:
        """Put a layer at the end of the chain, or an `Input` before the first.

        The layer is built at once when the shape before it is known, and gets a name that is unique in this model.

        Raises:
            InvalidArgumentType: it is not a layer.
            InvalidArgument: it is in the chain already, or its name is.
            InvalidInput: it cannot work on the shape before it; the chain stays as it was.
        """
        if isinstance(layer, Input):
            self._set_input(layer)
            return
        if not isinstance(layer, Layer):
            raise InvalidArgumentType(
                f"{self.name}: only layers of conveyor_exporter.layers can be added, got {layer!r}."
                + (" Write the parentheses: a class is not a layer yet." if isinstance(layer, type) else "")
            )
        if any(layer is other for other in self.layers):
            raise InvalidArgument(f"{self.name}: {layer.title} is in this model already; make a new layer.")
        layer.name = self._free_name(layer)
        shape = self._shape_before(layer)
        if shape is not None and not (layer.built and layer.input_shape == shape):
            layer.build(shape)
        self.add_module(layer.name, layer)

    def build(self, input_shape: Sequence[int]) -> None:
        """Create the weights for samples of `input_shape`, given without the batch axis.

        Raises:
            InvalidInput: a layer cannot work on the shape before it.
        """
        shape = sample_shape(input_shape, self.name)
        for layer in self.layers:
            if not (layer.built and layer.input_shape == shape):
                layer.build(shape)
            shape = self._shape(layer.output_shape)

    def forward(self, inputs: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the outputs of the last layer; an array becomes a tensor, an unbuilt model is built.

        Raises:
            InvalidInput: the inputs do not have the model's shape, or no batch axis.
            NotBuilt: the model has no layers.
        """
        tensor = torch.as_tensor(inputs)
        self.check_inputs(tensor)
        tensor = tensor.to(next(self.parameters(), tensor).device)
        for layer in self.layers:
            tensor = layer(tensor)
        return tensor

    def check_inputs(self, inputs: torch.Tensor) -> None:
        """Accept inputs of the model's shape, [batch, *input_shape]; an unbuilt model takes its shape from them.

        Raises:
            InvalidInput: the inputs do not have the model's shape, or no batch axis.
            NotBuilt: the model has no layers.
        """
        if not self.layers:
            raise NotBuilt(f"{self.name} has no layers: add some first.")
        if not self.built:
            self.build(tuple(inputs.shape[1:]))
        if tuple(inputs.shape[1:]) != self.input_shape:
            raise InvalidInput(wrong_input(self.name, self.input_shape, tuple(inputs.shape)))

    def get_weights(self) -> list[np.ndarray]:
        """Return copies of all weights, float32, in Keras' order and axis order."""
        return [weight for layer in self.layers for weight in layer.get_weights()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Replace all weights by arrays in Keras' order and axis order.

        Raises:
            InvalidInput: the number of arrays or a shape differs.
        """
        counts = [len(layer.get_weights()) for layer in self.layers]
        if len(weights) != sum(counts):
            raise InvalidInput(f"{self.name} has {sum(counts)} weights, got {len(weights)}.")
        rest = list(weights)
        for layer, count in zip(self.layers, counts, strict=True):
            layer.set_weights(rest[:count])
            del rest[:count]

    def summary(self, print_fn: Callable[[str], object] | None = None) -> None:
        """Print the table of layers, output shapes and parameter counts, or hand it to `print_fn`."""
        table = summary_table(self.name, self.layers)
        if print_fn is not None:
            print_fn(table)
        else:
            Console(soft_wrap=True).print(table, markup=False, highlight=False, emoji=False)

    def _set_input(self, declared: Input) -> None:
        if self.layers or self._input is not None:
            raise InvalidArgument(f"{self.name}: an Input can only stand first, once, before all layers.")
        self._input = declared

    def _free_name(self, layer: Layer) -> str:
        if layer.has_own_name:
            if hasattr(self, layer.name):  # another layer, or something of the model itself
                raise InvalidArgument(f"{self.name}: the layer name {layer.name!r} is taken; names must be unique.")
            return layer.name
        base, number = layer.base_name, 0
        while hasattr(self, name := f"{base}_{number}" if number else base):
            number += 1
        return name

    def _shape_before(self, layer: Layer) -> Shape | None:
        """Return what a layer at the end of the chain gets, None when it is not known yet."""
        declared = layer.declared_input_shape
        before = None if self._input is None else self._input.shape
        shape = self.layers[-1].output_shape if self.layers else before or declared
        if None not in (shape, declared) and shape != declared:
            raise InvalidArgument(
                f"{self.name}: {layer.title} declares input_shape={declared}, but what is before it gives {shape}."
            )
        return shape

    def _shape(self, shape: Shape | None) -> Shape:
        if shape is None:
            raise NotBuilt(f"{self.name} does not know its shapes yet: give its first layer `input_shape`.")
        return shape
