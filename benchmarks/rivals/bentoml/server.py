"""BentoML. Bodies are raw float32, its fastest form: its batching would take arrays as JSON."""

import os
import sys
from pathlib import Path


def main() -> None:
    model, port, _, _ = sys.argv[1:]
    environment = {**os.environ, "BENCH_MODEL": model, "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": os.getcwd()}
    program = str(Path(sys.executable).with_name("bentoml"))
    folder = str(Path(__file__).parent)
    command = [program, "serve", "bentoml_service:Tutorial", "--working-dir", folder]
    os.execve(program, [*command, "--host", "127.0.0.1", "--port", port], environment)


if __name__ == "__main__":
    main()
