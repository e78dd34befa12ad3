"""Owns the file from which a stopped training goes on: what is in it, and that it is whole or not there at all.

Knows no layer, no loss and no command.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from conveyor_exporter.errors import CheckpointFailed, CheckpointMismatch
from conveyor_exporter.training.early_stopping import Watch

FORMAT = "conveyor training checkpoint 1"
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A training between two epochs.

    Attributes:
        weights: the network's weights and moving statistics, by name.
        optimizer: torch's `state_dict` of the optimiser.
        random: states of the random number generators, by name.
        history: for each metric its value after each epoch so far.
        epochs: how many epochs are done.
        watch: what early stopping has seen.
        finished: whether no epoch is to follow.
    """

    weights: Tensors
    optimizer: dict[str, Any]
    random: Tensors
    history: dict[str, list[float]]
    epochs: int
    watch: Watch = field(default_factory=Watch)
    finished: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file (safetensors: numbers and JSON, nothing that can be executed) of one particular training.

    Attributes:
        path: the file; its folder must be there.
        identity: what makes the training this one, in words: a file of a training with another identity is refused.
    """

    path: Path
    identity: Mapping[str, str] = field(default_factory=dict)

    def save(self, snapshot: Snapshot) -> None:
        """Write the file, in place of the one before: a reader, or a crash, finds the one or the other, whole.

        Raises:
            CheckpointFailed: the file cannot be written.
        """
        temporary = self.path.with_name(f".{self.path.name}.writing")
        try:
            try:
                with temporary.open("wb") as file:
                    file.write(_encode(snapshot, self.identity))
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise CheckpointFailed(f"cannot write the checkpoint {self.path}: {error.strerror or error}.") from error

    def load(self) -> Snapshot | None:
        """Return what the file has, or None when there is no file.

        Raises:
            CheckpointFailed: it cannot be read, or is no checkpoint.
            CheckpointMismatch: it belongs to another training; the message says what differs.
        """
        try:
            if not self.path.exists():
                return None
            with safe_open(self.path, framework="pt") as file:
                header = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  no mapping
            if header.get("format") != FORMAT:
                raise CheckpointFailed(f"{self.path} is no checkpoint of a training; give `--checkpoint` another file.")
            self._compare(json.loads(header["identity"]))
            return _decode(json.loads(header["state"]), tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointFailed(
                f"cannot read the checkpoint {self.path}: {error}. Remove it to begin anew, or give another file."
            ) from error

    def _compare(self, stored: Mapping[str, str]) -> None:
        names = sorted({*stored, *self.identity})
        nothing = "nothing"
        differences = [
            f"  {name}: {stored.get(name, nothing)} in the checkpoint, {self.identity.get(name, nothing)} now"
            for name in names
            if stored.get(name) != self.identity.get(name)
        ]
        if differences:
            raise CheckpointMismatch(
                f"the checkpoint {self.path} belongs to another training:\n"
                + "\n".join(differences)
                + "\nGive another file to begin anew, or undo the change to go on."
            )


def _encode(snapshot: Snapshot, identity: Mapping[str, str]) -> bytes:
    tensors = {f"weights/{name}": tensor for name, tensor in snapshot.weights.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in snapshot.watch.best_weights.items()}
    tensors |= {f"random/{name}": tensor for name, tensor in snapshot.random.items()}
    for number, values in snapshot.optimizer["state"].items():
        tensors |= {f"optimizer/{number}/{name}": value for name, value in values.items() if value is not None}
    watch = snapshot.watch
    state = {
        "optimizer_groups": snapshot.optimizer["param_groups"],
        "history": snapshot.history,
        "epochs": snapshot.epochs,
        "watch": {"best": watch.best, "best_epoch": watch.best_epoch, "wait": watch.wait},
        "finished": snapshot.finished,
    }
    header = {"format": FORMAT, "identity": json.dumps(dict(identity), sort_keys=True), "state": json.dumps(state)}
    # copies, because safetensors takes neither views nor tensors that share memory
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, header)


def _decode(state: Mapping[str, Any], tensors: Tensors) -> Snapshot:
    optimizer: dict[int, Tensors] = {}
    for name, tensor in _below("optimizer", tensors).items():
        number, _, key = name.partition("/")
        optimizer.setdefault(int(number), {})[key] = tensor
    return Snapshot(
        weights=_below("weights", tensors),
        optimizer={"state": optimizer, "param_groups": state["optimizer_groups"]},
        random=_below("random", tensors),
        history=state["history"],
        epochs=state["epochs"],
        watch=Watch(**state["watch"], best_weights=_below("best", tensors)),
        finished=state["finished"],
    )


def _below(prefix: str, tensors: Tensors) -> Tensors:
    return {
        name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")
    }
