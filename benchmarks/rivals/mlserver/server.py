"""MLServer with its adaptive batching."""

import json
import os
import sys
from pathlib import Path

# With its default of one worker process it serves nothing on this stack: the worker dies at the start.
SETTINGS = {"debug": False, "host": "127.0.0.1", "parallel_workers": 0}
MODEL = {"name": "tutorial", "implementation": "mlserver_model.Tutorial", "max_batch_size": 64, "max_batch_time": 0.001}


def main() -> None:
    model, grpc, http, metrics = sys.argv[1:]
    ports = {"grpc_port": int(grpc), "http_port": int(http), "metrics_port": int(metrics)}
    Path("settings.json").write_text(json.dumps(SETTINGS | ports))
    Path("model-settings.json").write_text(json.dumps(MODEL | {"parameters": {"uri": model, "version": "1"}}))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "MLSERVER_METRICS_DIR": os.getcwd()}
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execve(program, [program, "start", "."], environment)


if __name__ == "__main__":
    main()
