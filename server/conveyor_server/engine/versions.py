"""What is on disk: model folders, version folders, and which of them a policy wants. Opens no model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conveyor_server.generated import model_config_pb2 as pb

MODEL_FILE = "model.onnx"
_MAX_DIGITS = 18  # the longest run of digits that always fits 64 bits


@dataclass(frozen=True)
class Candidates:
    """The versions that a policy wants, best first, and how many of them are enough."""

    versions: tuple[int, ...]
    enough: int


def model_folders(root: Path) -> Iterator[Path]:
    """The folders of a repository that can be models, by name."""
    yield from sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def versions_in(folder: Path) -> list[int]:
    """The versions of a model, newest first."""
    return sorted(
        (int(path.name) for path in folder.iterdir() if is_version(path.name) and path.is_dir()), reverse=True
    )


def is_version(text: str) -> bool:
    """Whether a text is the name of a version: a whole number from 1."""
    return text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= _MAX_DIGITS


def choose_versions(policy: pb.ModelVersionPolicy, versions: list[int]) -> Candidates:
    """What a policy wants of these versions (newest first); without a policy, the latest.

    A version that cannot be loaded is no reason to serve none: under `latest`, older ones are candidates behind it.
    """
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return Candidates(tuple(versions), len(versions))
    if choice == "specific":
        wanted = tuple(version for version in versions if version in policy.specific.versions)
        return Candidates(wanted, len(wanted))
    return Candidates(tuple(versions), max(1, policy.latest.num_versions))
