"""Owns where the weights of a layer lie, in a `.keras` file and in a legacy `.h5`, and that none is left over.

Knows nothing of what a layer computes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from conveyor_exporter.arguments import Shape
from conveyor_exporter.sources.keras_file.chain import StoredLayer
from conveyor_exporter.sources.keras_file.hdf5 import Array, Hdf5, Path
from conveyor_exporter.sources.keras_file.json_text import quoted

LEGACY_ROOT = "model_weights"
KERAS2_LAYERS = "_layer_checkpoint_dependencies"
"""What Keras 2 called the group `layers` in `.keras` files."""


class StoredWeights(Protocol):
    """The weights in a file, found by layer."""

    def check_layers(self, layers: Sequence[StoredLayer], with_weights: Sequence[StoredLayer]) -> None:
        """Accept a file with weights of exactly these layers.

        Args:
            layers: all layers of the model.
            with_weights: those among them that have weights.

        Raises:
            ModelFileRefused: the file has others, or in another order.
        """

    def read(self, layer: StoredLayer, shapes: Mapping[str, Shape]) -> list[Array]:
        """Return the weights of a layer, in Keras' order.

        Args:
            layer: the layer.
            shapes: the names of its weights in Keras' order, with their shapes.

        Raises:
            ModelFileRefused: they are missing, or not what the layer needs.
        """


class ArchiveWeights:
    """The member `model.weights.h5` of a `.keras` file: groups named by class, in them weights named by number."""

    def __init__(self, file: Hdf5) -> None:
        self._file = file
        self._keras2 = KERAS2_LAYERS in (file.members(()) or ())

    def check_layers(self, layers: Sequence[StoredLayer], with_weights: Sequence[StoredLayer]) -> None:
        """Accept a file that has no layers but these; see `StoredWeights`."""
        known: dict[Path, set[str]] = {}
        for layer in layers:
            for depth in range(0, len(layer.group), 2):  # layers, sequential, layers, conv2d
                known.setdefault(layer.group[: depth + 1], set()).add(layer.group[depth + 1])
        for group, names in known.items():
            for name in self._file.members(self._place(group)) or ():
                if name not in names and not name.startswith("input_layer"):
                    raise self._file.refusal(f"the weights have a layer {quoted(name)} that the model does not have")

    def read(self, layer: StoredLayer, shapes: Mapping[str, Shape]) -> list[Array]:
        """Return the weights of a layer; see `StoredWeights`."""
        group = (*self._place(layer.group), "vars")
        stored, needed = self._file.members(group) or [], [str(number) for number in range(len(shapes))]
        if sorted(stored) != sorted(needed):
            raise self._file.refusal(
                f"{layer.title} needs {len(needed)} weights ({', '.join(shapes) or 'none'}) in "
                f"{quoted('/'.join(group))}, the file has {len(stored)}"
            )
        name = self._file.text(group, "name")
        if name not in (None, layer.name):
            raise self._file.refusal(f"the weights for {layer.title} are those of a layer {quoted(name)}")
        return [
            self._file.array((*group, number), shape, layer.title)
            for number, shape in zip(needed, shapes.values(), strict=True)
        ]

    def _place(self, group: Path) -> Path:
        return tuple(KERAS2_LAYERS if name == "layers" else name for name in group) if self._keras2 else group


class LegacyWeights:
    """The group `model_weights` of a legacy `.h5`: groups named by layer, in them weights listed by name."""

    def __init__(self, file: Hdf5) -> None:
        self._file = file

    def check_layers(self, layers: Sequence[StoredLayer], with_weights: Sequence[StoredLayer]) -> None:
        """Accept a file whose list of layers with weights is this one; see `StoredWeights`."""
        stored = self._file.texts((LEGACY_ROOT,), "layer_names")
        if stored is None:
            raise self._file.refusal("the list of layers with weights, `layer_names`, is missing")
        stored = [name for name in stored if self._weight_names(name)]
        wanted = _without_repeats(layer.outermost for layer in with_weights)
        if stored != wanted:
            raise self._file.refusal(
                f"the weights are of the layers {quoted(', '.join(stored))}, the model needs "
                f"{quoted(', '.join(wanted))} in this order"
            )

    def read(self, layer: StoredLayer, shapes: Mapping[str, Shape]) -> list[Array]:
        """Return the weights of a layer; see `StoredWeights`."""
        names = self._weight_names(layer.outermost)
        if layer.outermost != layer.name or len(layer.group) > 2:  # a nested model lists the weights of all its layers
            found = {name: [path for path in names if _ends_in(path, layer.name, name)] for name in shapes}
            if any(len(paths) != 1 for paths in found.values()):
                raise self._file.refusal(f"the weights of {layer.title} cannot be told apart or are missing")
            names = [paths[0] for paths in found.values()]
        if len(names) != len(shapes) or not all(map(_is_named, names, shapes)):
            raise self._file.refusal(
                f"{layer.title} needs the weights {', '.join(shapes) or 'none'}, "
                f"the file has {quoted(', '.join(names))}"
            )
        return [
            self._file.array((*self._place(layer.outermost), *path.split("/")), shape, layer.title)
            for path, shape in zip(names, shapes.values(), strict=True)
        ]

    def _weight_names(self, layer: str) -> list[str]:
        names = self._file.texts(self._place(layer), "weight_names")
        if names is None:
            raise self._file.refusal(f"the list of the weights of layer {quoted(layer)}, `weight_names`, is missing")
        return names

    @staticmethod
    def _place(layer: str) -> Path:
        return (LEGACY_ROOT, *layer.split("/"))


def _without_repeats(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _base_name(path: str) -> str:
    """Return `kernel` for `sequential/conv2d/kernel:0`, without the prefix that only Keras 2 gives it."""
    return path.rpartition("/")[2].removesuffix(":0").removeprefix("depthwise_")


def _is_named(path: str, name: str) -> bool:
    return _base_name(path) == _base_name(name)


def _ends_in(path: str, layer: str, name: str) -> bool:
    return _is_named(path, name) and path.rpartition("/")[0].split("/")[-1:] == layer.split("/")[-1:]
