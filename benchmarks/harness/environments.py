"""The environments of the programs under comparison: one a folder of benchmarks/rivals, made when first needed."""

import hashlib
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
RIVALS = ROOT / "benchmarks" / "rivals"
FOLDER = ROOT / ".tools" / "bench"
_STAMP = "requirements.sha256"


def environment(name: str) -> Path:
    """The environment of a folder in benchmarks/rivals, which is made or made anew if it is not as its pins say."""
    folder = FOLDER / name
    if is_made(name):
        return folder
    print(f"Making the environment of {name}; this takes a minute or two.", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    subprocess.run([*install, "--requirement", _requirements(name)], check=True, cwd=ROOT)
    (folder / _STAMP).write_text(_digest(name))
    return folder


def is_made(name: str) -> bool:
    """Whether the environment is there and as its pins say."""
    stamp = FOLDER / name / _STAMP
    return stamp.exists() and stamp.read_text() == _digest(name)


def _requirements(name: str) -> Path:
    return RIVALS / name / "requirements.txt"


def _digest(name: str) -> str:
    """Of everything that says what is to be in the environment."""
    sources = [_requirements(name)]
    if name == "conveyor":
        sources += [ROOT / "constraints.txt", ROOT / "server" / "pyproject.toml"]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


@cache
def mebibytes(folder: Path) -> int:
    """What an environment takes on the disk."""
    return round(sum(file.lstat().st_blocks * 512 for file in folder.rglob("*")) / 2**20)


def pinned(name: str) -> dict[str, str]:
    """The packages that are installed in an environment, and their versions."""
    freeze = [FOLDER / name / "bin" / "pip", "list", "--format", "freeze", "--disable-pip-version-check"]
    listed = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    return dict(re.findall(r"^([^=\s]+)==(\S+)$", listed, re.MULTILINE))
