"""Writes the lock files of the images: exact versions with hashes, from the pyproject files and constraints.txt.

Run it after either changed: `python deploy/lock.py`. It needs `uv`, which asks the package index for the hashes.
"""

import re
import subprocess
import sys
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent
ROOT = DEPLOY.parent
HEADER = "# What the {} installs, with hashes. Written by: python deploy/lock.py\n"
# torch is the one package whose index decides what it brings along: gigabytes of CUDA, or nothing. It is installed
# first, from the index that the build names, and so stands in no lock file.
TORCH = re.compile(r"^(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
# The newest onnxruntime-gpu that the constraints' other versions agree with; the CPU package goes ahead of it.
GPU_RUNTIME = "onnxruntime-gpu[cuda,cudnn]==1.31.1\n"

SERVER = [str(ROOT / "server/pyproject.toml"), "--extra", "s3", "--extra", "otel"]
EXPORTER = [str(ROOT / "exporter/pyproject.toml"), "--extra", "cpu"]


def main() -> None:
    """Writes all four."""
    write("requirements-cpu.lock", "CPU server image", [*SERVER, "--extra", "cpu"])
    write("requirements-gpu.lock", "GPU server image", [*SERVER, "--extra", "gpu", "-"], GPU_RUNTIME)
    write("requirements-exporter.lock", "exporter image, next to torch,", EXPORTER, without=TORCH)
    write("requirements-build.lock", "build stage of the images", ["-"], "hatchling\n")


def write(name: str, image: str, sources: list[str], more: str = "", without: re.Pattern[str] | None = None) -> None:
    """Resolves `sources`, and `more` as their standard input, into one lock file, `without` some of the outcome."""
    command = [sys.executable, "-m", "uv", "pip", "compile", *sources, "--constraint", str(ROOT / "constraints.txt")]
    command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header"]
    done = subprocess.run(command, input=more, text=True, capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    # A requirement starts in the first column; its hashes follow, indented.
    requirements = re.split(r"^(?=\S)", done.stdout, flags=re.MULTILINE)
    kept = "".join(requirement for requirement in requirements if not without or not without.match(requirement))
    (DEPLOY / name).write_text(HEADER.format(image) + kept)
    print(f"{name}: {kept.count('==')} packages")


if __name__ == "__main__":
    main()
