"""The environments of the servers under comparison: one a folder of benchmarks/rivals, made when first needed."""

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
    folder, requirements = FOLDER / name, RIVALS / name / "requirements.txt"
    sources = [requirements]
    if name == "conveyor":
        sources += [ROOT / "constraints.txt", ROOT / "server" / "pyproject.toml"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    stamp = folder / _STAMP
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return folder
    print(f"Making the environment of {name}; this takes a minute or two.", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    subprocess.run([*install, "--requirement", requirements], check=True, cwd=ROOT)
    stamp.write_text(digest.hexdigest())
    return folder


@cache
def mebibytes(folder: Path) -> int:
    """What an environment takes on the disk."""
    return round(sum(file.lstat().st_blocks * 512 for file in folder.rglob("*")) / 2**20)


def pinned(name: str) -> dict[str, str]:
    """The packages that are installed in an environment, and their versions."""
    freeze = [FOLDER / name / "bin" / "pip", "list", "--format", "freeze", "--disable-pip-version-check"]
    listed = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    return dict(re.findall(r"^([^=\s]+)==(\S+)$", listed, re.MULTILINE))
