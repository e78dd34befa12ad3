"""Owns the reading of someone else's torch module: a factory of the user's own, weights read as data, the two ends.

Knows nothing of ONNX. The factory is code and runs; the weights are never code.
"""

import hashlib
import importlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import nn

from conveyor_exporter.arguments import did_you_mean
from conveyor_exporter.errors import InvalidArgument, ModelFileRefused

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: torch.softmax(logits, dim=1),
}
_SHOWN = 5  # names in an error message


@dataclass(frozen=True)
class Weights:
    """Tensors by name, read from a file.

    Attributes:
        tensors: the `state_dict`.
        sha256: SHA-256 of the file's bytes, in hexadecimal.
    """

    tensors: Mapping[str, torch.Tensor]
    sha256: str


def make_module(factory: str) -> nn.Module:
    """Return what the user's factory makes: `package.module:name`, or `file.py:name`, from the current folder too.

    Raises:
        InvalidArgument: there is no such factory, it fails, or it makes something else than a torch module.
    """
    place, _, name = factory.rpartition(":")
    if not place or not name:
        raise InvalidArgument(f"a factory is written package.module:name, or file.py:name; got {factory!r}.")
    make = getattr(module := _imported(place), name, None)
    if not callable(make):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise InvalidArgument(f"{place} has nothing to call that is named {name!r}.{did_you_mean(name, known)}")
    try:
        made = make()
    except Exception as error:  # the user's own code may raise anything
        raise InvalidArgument(f"{factory} failed: {_in_words(error)}") from error
    if not isinstance(made, nn.Module):
        raise InvalidArgument(f"{factory} must return a torch.nn.Module, got {type(made).__name__}.")
    return made.to("cpu", torch.float32)


def read_weights(path: Path) -> Weights:
    """Read tensors from a safetensors file, or from one that `torch.save(model.state_dict(), …)` wrote.

    Raises:
        ModelFileRefused: the file cannot be read, or holds anything but tensors by name, such as a pickled model.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileRefused(f"cannot read {path}: {error.strerror or error}.") from error
    tensors = _safetensors(path, content) if content[8:9] == b"{" else _torch_file(path, content)
    return Weights(tensors, hashlib.sha256(content).hexdigest())


def load_weights(module: nn.Module, weights: Weights) -> None:
    """Put all weights into a module: every name on both sides, every shape as it is.

    Raises:
        ModelFileRefused: a name is missing or unexpected, or a shape differs.
    """
    wanted, given = module.state_dict(), weights.tensors
    problems = [_listed("missing", sorted(wanted.keys() - given.keys()))]
    problems.append(_listed("unexpected", sorted(given.keys() - wanted.keys())))
    problems.append(
        _listed(
            "of another shape",
            [
                f"{name} {list(given[name].shape)} instead of {list(wanted[name].shape)}"
                for name in sorted(wanted.keys() & given.keys())
                if given[name].shape != wanted[name].shape
            ],
        )
    )
    if any(problems):
        raise ModelFileRefused(
            f"the weights do not fit the module: {'; '.join(filter(None, problems))}. "
            "Does the factory make the module that they were saved from?"
        )
    module.load_state_dict(dict(given), strict=True)


def fit_ends(module: nn.Module, channels_first: bool, activation: str | None) -> None:
    """Let a module take images with their channels last, and end in probabilities; its parts keep their names.

    Args:
        module: changed in place.
        channels_first: it takes [batch, channels, height, width]; from now on [batch, height, width, channels].
        activation: `softmax` or `sigmoid` to put behind its logits; None when it gives probabilities.
    """
    if channels_first:
        module.register_forward_pre_hook(lambda _, arguments: (arguments[0].permute(0, 3, 1, 2), *arguments[1:]))
    if activation is not None:
        head = ACTIVATIONS[activation]
        module.register_forward_hook(lambda _, arguments, logits: head(logits))


def _imported(place: str) -> ModuleType:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None:
            raise InvalidArgument(f"{place} is no Python file.")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where its classes are looked up
        spec.loader.exec_module(module)
        return module
    except InvalidArgument:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise InvalidArgument(f"cannot import {place}: {_in_words(error)}") from error
    finally:
        sys.path.remove(folder)


def _safetensors(path: Path, content: bytes) -> Mapping[str, torch.Tensor]:
    try:
        tensors: Mapping[str, torch.Tensor] = safetensors.torch.load(content)
    except Exception as error:  # a class of its own, which the package does not promise
        raise ModelFileRefused(f"{path} is no sound safetensors file: {_in_words(error)}") from error
    return tensors


def _torch_file(path: Path, content: bytes) -> Mapping[str, torch.Tensor]:
    try:
        loaded: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # broken files and files with code in them fail in many ways
        raise ModelFileRefused(
            f"{path} holds something else than tensors, or is broken; loading it could run code, so it is not loaded. "
            "Save the weights alone: safetensors.torch.save_file(model.state_dict(), …) or "
            "torch.save(model.state_dict(), …)."
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]  # a training checkpoint
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ModelFileRefused(f"{path} must hold tensors by name, what model.state_dict() returns.")
    return {str(name): tensor for name, tensor in loaded.items()}


def _listed(what: str, names: Iterable[str]) -> str:
    known = list(names)
    if not known:
        return ""
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"{what}: {', '.join(known[:_SHOWN])}{more}"


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
