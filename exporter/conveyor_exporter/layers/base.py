"""Owns what all layers share: names, building on the first known shape, weights in Keras' axis order, memory layout.

Knows no particular layer and no model.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from conveyor_exporter import arguments
from conveyor_exporter.arguments import Shape
from conveyor_exporter.errors import InvalidInput, NotBuilt
from conveyor_exporter.initializers import Initializer
from conveyor_exporter.layers.options import LayerOptions, refuse_unknown


def snake_case(class_name: str) -> str:
    """Return a class name as Keras names a layer: Conv2D → conv2d, GlobalMaxPooling2D → global_max_pooling2d."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


class Layer(nn.Module):
    """One step of a network: float32 [batch, *input_shape] to float32 [batch, *output_shape], channels last.

    A subclass implements `output_shape_for` and `compute`, and creates its weights in `create_weights`.

    Args:
        options: `name`, the layer's name in summaries and in the exported file, and `input_shape`, the shape of one
            sample without the batch axis, which the first layer of a model needs unless an `Input` stands before it;
            `trainable`, whether training changes the weights, which can be set later, too.

    Raises:
        InvalidArgument: an option is unknown or has a value that cannot work.
    """

    keras_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """Of each weight, in Keras' order: which axes of torch's tensor make Keras' axes, in turn."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        refuse_unknown(options, type(self), LayerOptions.__optional_keys__)
        name = options.get("name")
        self.base_name = snake_case(self.kind)
        self.has_own_name = name is not None
        self.name = arguments.layer_name(name, self.kind) if name is not None else self.base_name
        self._trainable = arguments.boolean(options.get("trainable", True), "trainable", self.kind)
        self.input_shape: Shape | None = None
        self.output_shape: Shape | None = None
        self.declared_input_shape: Shape | None = None
        if options.get("input_shape") is not None:
            self.declared_input_shape = arguments.sample_shape(options["input_shape"], self.kind)

    @property
    def kind(self) -> str:
        """The class name, as the summary shows it."""
        return type(self).__name__

    @property
    def title(self) -> str:
        """How messages speak of this layer: its class, and its name where that tells more."""
        return f"{self.kind} {self.name!r}"

    @property
    def built(self) -> bool:
        """Whether the layer knows its input shape and has its weights."""
        return self.output_shape is not None

    @property
    def trainable(self) -> bool:
        """Whether training changes the weights; setting it takes effect at once."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = arguments.boolean(value, "trainable", self.kind)
        self.requires_grad_(self._trainable)

    def build(self, input_shape: Shape) -> None:
        """Create the weights for samples of `input_shape`, given without the batch axis.

        Raises:
            InvalidInput: the layer cannot work on this shape.
        """
        output_shape = self.output_shape_for(input_shape)
        self.create_weights(input_shape)
        self.input_shape, self.output_shape = input_shape, output_shape

    def output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the shape of one output for one input of `input_shape`, both without the batch axis.

        Raises:
            InvalidInput: the layer cannot work on this shape.
        """
        raise NotImplementedError

    def create_weights(self, input_shape: Shape) -> None:
        """Create the weights; a layer without weights leaves this out."""

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs for checked inputs."""
        raise NotImplementedError

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, *output_shape] for [batch, *input_shape]; builds the layer on the first call.

        Raises:
            InvalidInput: the inputs have another shape, or no batch axis.
        """
        shape = tuple(inputs.shape)
        if not self.built:
            self.build(shape[1:])
        elif shape[1:] != self.input_shape:
            raise InvalidInput(wrong_input(self.title, self.input_shape, shape))
        return self.compute(inputs.to(self._dtype(inputs)))

    def add_weight(self, name: str, keras_shape: Shape, initializer: Initializer, learned: bool = True) -> None:
        """Create the weight `name`, initialised in Keras' axis order and stored in torch's.

        One that is not `learned` is a buffer: it belongs to the layer's weights, and no gradient ever changes it.
        """
        if learned:
            self.register_parameter(name, nn.Parameter(torch.empty(0), requires_grad=self.trainable))
        else:
            self.register_buffer(name, torch.empty(0))
        self._assign(name, _checked_values(initializer(keras_shape), keras_shape, f"{self.title}: `{name}`"))

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights by name, in Keras' order, each in torch's axis order; not copies."""
        named = {**self._parameters, **self._buffers}
        return {name: tensor for name in self.keras_axes if (tensor := named.get(name)) is not None}

    def get_weights(self) -> list[np.ndarray]:
        """Return copies of the weights, float32, in Keras' order and axis order."""
        tensors = (tensor.detach().permute(self.keras_axes[name]) for name, tensor in self.weights().items())
        return [tensor.cpu().numpy().copy() for tensor in tensors]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Replace the weights by arrays in Keras' order and axis order.

        Raises:
            NotBuilt: the layer has no weights yet, because it does not know its input shape.
            InvalidInput: the number of arrays or a shape differs.
        """
        if not self.built:
            raise NotBuilt(f"{self.title} has no weights yet: give `input_shape`, or call it once.")
        names = list(self.weights())
        if len(weights) != len(names):
            raise InvalidInput(f"{self.title} has {len(names)} weights ({', '.join(names)}), got {len(weights)}.")
        shapes = [tuple(array.shape) for array in self.get_weights()]
        checked = [
            _checked_values(torch.as_tensor(np.asarray(values)), shape, f"{self.title}: `{name}`")
            for name, shape, values in zip(names, shapes, weights, strict=True)
        ]
        for name, values in zip(names, checked, strict=True):
            self._assign(name, values)

    def extra_repr(self) -> str:
        """Return what torch prints of this layer."""
        return f"name={self.name!r}"

    def _dtype(self, inputs: torch.Tensor) -> torch.dtype:
        """Return what to compute in: as the weights (float32 unless the module was converted), else as the inputs."""
        given = inputs.dtype if inputs.is_floating_point() else torch.float32
        return next((weight.dtype for weight in self.weights().values()), given)

    def _assign(self, name: str, keras_values: torch.Tensor) -> None:
        axes = self.keras_axes[name]
        torch_axes = [axes.index(axis) for axis in range(len(axes))]
        weight = self.weights()[name]
        weight.data = keras_values.to(weight.device, weight.dtype).permute(torch_axes).contiguous().clone()


def wrong_input(owner: str, expected: Shape | None, received: Shape) -> str:
    """Return the message for inputs of shape `received`, batch axis included, where samples of `expected` belong."""
    message = f"{owner} expects inputs of shape [batch, {', '.join(map(str, expected or ()))}], got {list(received)}."
    if received == expected:
        message += " Add the batch axis: x[None] makes a batch of one."
    return message


def _checked_values(values: torch.Tensor, shape: Shape, owner: str) -> torch.Tensor:
    if tuple(values.shape) != shape:
        raise InvalidInput(f"{owner} needs shape {shape}, got {tuple(values.shape)}.")
    return values
