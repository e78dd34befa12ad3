"""Owns the states of the random number generators that a training draws from; knows no layer and no file."""

from collections.abc import Iterator

import torch
from torch import nn


def random_states(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the states of torch's generator, of the module's GPU if it is on one, and of generators inside it."""
    states = {"torch": torch.get_rng_state()}
    if (device := _device(module)).type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states | {name: generator.get_state() for name, generator in _generators(module)}


def restore_random_states(module: nn.Module, states: dict[str, torch.Tensor]) -> None:
    """Set every generator to what `random_states` returned.

    Raises:
        KeyError: a generator has no state there.
    """
    torch.set_rng_state(states["torch"])
    if (device := _device(module)).type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    for name, generator in _generators(module):
        generator.set_state(states[name])


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _generators(module: nn.Module) -> Iterator[tuple[str, torch.Generator]]:
    """Yield the generators that layers keep for themselves, such as one with a seed of its own."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, torch.Generator):
                yield f"{path}.{name}", value
