"""What a supervisor and its workers have to say to each other: the topics, and what their bodies are.

Knows no protobuf: messages of the protocol travel through the supervisor as bytes, unread.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from conveyor_server.settings import Settings


class Topic(StrEnum):
    """What is said, by whom to whom."""

    # Notices of the supervisor.
    BRIEFING = "briefing"
    """The first one: a `Briefing`."""
    LOAD = "load"
    """Load the models, then do this list of `Change`s."""
    CONNECTION = "connection"
    """Serve it; it comes as a descriptor."""
    VERDICT = "verdict"
    """Whether the server as a whole is ready."""
    SEND_AWAY = "send away"
    """Have so many connections end, so that they come back and are spread anew."""
    RETIRE = "retire"
    """Another worker has come for this one: end without a refusal."""
    STOP = "stop"
    """The server stops: refuse what is new, finish what was accepted, end."""
    # Questions of the supervisor.
    LIFE = "life"
    """Nothing is asked but whether the event loop turns."""
    PAGE = "page"
    """The metrics: a `Page`. Also the last notice of a worker."""
    LOOK = "look"
    """Bring the models in line with the folder."""
    # Questions of both: a worker asks for all, the supervisor each worker for itself.
    CHANGE = "change"
    """A `Change`."""
    STATISTICS = "statistics"
    """A serialised ModelStatisticsRequest. A worker gets a serialised response, the supervisor's asker all of them."""
    INDEX = "index"
    """The same for a RepositoryIndexRequest."""
    # Notices of a worker.
    UP = "up"
    """Its transport serves; no model is loaded."""
    FAILED = "failed"
    """It cannot start; the text is for the operator."""
    STATE = "state"
    """A `State`, at each change."""
    ENDED = "ended"
    """So many connections have ended."""


@dataclass(frozen=True)
class Briefing:
    """What a worker is told first."""

    settings: Settings
    """With a transport that is not `auto`, and the port that is taken."""
    workers: int
    cpus: int
    """That it may keep busy."""
    folder: Path
    """The models."""
    boundary: Path | None
    """The folder that no file may be outside of, where that is not `folder`."""


@dataclass(frozen=True)
class State:
    """How far a worker is."""

    loaded: bool = False
    """Whether everything that was wanted at the start has been tried."""
    answers: bool = False
    """Whether some model answers."""
    served: tuple[str, ...] = ()
    """The names of the models that answer, once for each version."""


@dataclass(frozen=True)
class Change:
    """What a client wants to become of a model."""

    model: str
    load: bool
    """Else unload."""
    config: bytes | None = None
    """A serialised ModelConfig to load it with, instead of that in its folder."""
