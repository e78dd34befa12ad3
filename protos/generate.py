"""Generates the Python code of the wire contract into `server/conveyor_server/generated`.

python protos/generate.py            write it
python protos/generate.py --check    only compare; exit code 1 when it is out of date
"""

import argparse
import importlib.resources
import pathlib
import sys
import tempfile

from grpc_tools import protoc

PROTOS = pathlib.Path(__file__).resolve().parent
GENERATED = PROTOS.parent / "server" / "conveyor_server" / "generated"

REWRITES = {
    # A pool of our own: `tritonclient` registers the same names in the default one.
    "from google.protobuf import descriptor_pool as _descriptor_pool":
        "from conveyor_server.generated import pool as _descriptor_pool",
    "import model_config_pb2 as": "from conveyor_server.generated import model_config_pb2 as",
}  # fmt: skip


def generate(target: pathlib.Path) -> list[pathlib.Path]:
    """Runs protoc for every proto file; returns the files written to `target`."""
    sources = [str(path) for path in sorted(PROTOS.glob("*.proto"))]
    include = importlib.resources.files("grpc_tools") / "_proto"
    flags = [f"-I{PROTOS}", f"-I{include}", f"--python_out={target}", f"--pyi_out={target}"]
    if protoc.main(["protoc", *flags, *sources]) != 0:
        raise SystemExit("protoc failed; its message is above.")
    files = sorted(target.glob("*_pb2.py*"))
    for path in files:
        text = path.read_text()
        for old, new in REWRITES.items():
            text = text.replace(old, new)
        path.write_text(text)
    return files


def main() -> int:
    """Writes or compares the generated code; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare with what is committed")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        stale = []
        for fresh in generate(pathlib.Path(folder)):
            committed = GENERATED / fresh.name
            if not committed.exists() or committed.read_bytes() != fresh.read_bytes():
                stale.append(fresh.name)
                if not check:
                    committed.write_bytes(fresh.read_bytes())
    if check and stale:
        sys.stderr.write(f"Out of date: {', '.join(stale)}. Run: make protos\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
