"""The servers under comparison, a row each: what they are, what they speak, and how they are started."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path

from harness.environments import RIVALS, environment


class Kind(StrEnum):
    """What a server is in the comparison."""

    OURS = "ours"
    RIVAL = "rival"
    FLOOR = "floor"
    """Answers zeros: what its library costs."""


class Unavailable(Exception):
    """A server cannot be started here; the text says why."""


@dataclass(frozen=True)
class Server:
    """One row of the comparison."""

    name: str
    title: str
    kind: Kind
    folder: str
    """In benchmarks/rivals."""
    protocol: str = "gRPC"
    path: str = ""
    """Of its URL, with HTTP."""
    script: str = "server.py"
    transport: str = ""
    """Of ours."""
    workers: int = 1
    """Of ours."""
    flags: tuple[str, ...] = ()
    """More flags, of ours."""
    distribution: str = ""
    """The package that it comes from; empty for what is in this repository."""
    streams: bool = False
    """Whether it serves ModelStreamInfer as Triton does."""
    perf_analyzer: bool = False
    """Whether NVIDIA's load generator can drive it."""
    environment: dict[str, str] = field(default_factory=dict, hash=False)
    """More environment variables."""

    @property
    def cores(self) -> int:
        return self.workers

    def command(self, model: Path, repository: Path, ports: Sequence[int]) -> list[str]:
        """Starts it in the foreground.

        Args:
            model: the ONNX file.
            repository: the folder of models that it lies in.
            ports: the port to serve on, and two spare ones.

        Raises:
            Unavailable: this build cannot do what the row is about.
        """
        programs = environment(self.folder) / "bin"
        if self.kind is not Kind.OURS:
            script = str(RIVALS / self.folder / self.script)
            return [str(programs / "python"), script, str(model), *map(str, ports)]
        command = [str(programs / "conveyor-server"), "--repository", str(repository), *self._flags(programs)]
        return [*command, "--grpc-port", str(ports[0]), "--http-port", str(ports[1])]

    def _flags(self, programs: Path) -> list[str]:
        known = _help(programs / "conveyor-server")
        flags = ["--transport", self.transport, "--workers", str(self.workers)]
        if "--transport" not in known and self.transport == "grpcio":
            del flags[:2]
        if "--workers" not in known and self.workers == 1:
            del flags[-2:]
        if missing := [flag for flag in flags if flag.startswith("--") and flag not in known]:
            raise Unavailable(f"this build has no {' and no '.join(missing)}")
        return [*flags, *self.flags]


@cache
def _help(program: Path) -> str:
    return subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout


def _ours(transport: str, workers: int) -> Server:
    return Server(
        f"conveyor-{transport}" + ("" if workers == 1 else f"-{workers}"),
        f"Conveyor, {transport}" + ("" if workers == 1 else f", {workers} workers on 2 cores"),
        Kind.OURS,
        "conveyor",
        transport=transport,
        workers=workers,
        streams=True,
        perf_analyzer=True,
        environment={"CONVEYOR_LAME_DUCK_SECONDS": "0"},
    )


SERVERS = (
    _ours("h2", 1),
    _ours("grpcio", 1),
    Server(
        "triton",
        "Triton 2.51, Python back end",
        Kind.RIVAL,
        "triton",
        distribution="nvidia-pytriton",
        streams=True,
        perf_analyzer=True,
    ),
    Server("mlserver", "MLServer", Kind.RIVAL, "mlserver", distribution="mlserver"),
    Server("kserve", "KServe SDK", Kind.RIVAL, "kserve", distribution="kserve"),
    Server("mosec", "mosec", Kind.RIVAL, "mosec", "HTTP", "/inference", distribution="mosec"),
    Server("litserve", "LitServe", Kind.RIVAL, "litserve", "HTTP", "/predict", distribution="litserve"),
    Server("bentoml", "BentoML", Kind.RIVAL, "bentoml", "HTTP", "/predict", distribution="bentoml"),
    Server("ray", "Ray Serve", Kind.RIVAL, "ray", "HTTP", "/", distribution="ray"),
    Server("echo-h2", "no model: ngh2", Kind.FLOOR, "conveyor", script="h2_server.py", distribution="ngh2"),
    Server(
        "echo-grpcio",
        "no model: grpcio",
        Kind.FLOOR,
        "conveyor",
        script="grpcio_server.py",
        distribution="grpcio",
    ),
    _ours("h2", 2),
    _ours("grpcio", 2),
)
