"""Triton's server binary and Python back end, both from the package nvidia-pytriton, which has no ONNX back end."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

CONFIG = """
name: "tutorial"
backend: "python"
max_batch_size: 64
input [{name: "image" data_type: TYPE_FP32 dims: [28, 28, 1]}]
output [{name: "probability" data_type: TYPE_FP32 dims: [1]}]
dynamic_batching {}
instance_group [{kind: KIND_CPU count: 1}]
"""


def main() -> None:
    model, grpc, http, metrics = sys.argv[1:]
    packages = Path(sysconfig.get_path("purelib"))
    triton = packages / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "backends" / "python" / "triton_python_backend_stub"
    if not stub.exists():
        shutil.copy2(triton / "python_backend_stubs" / version / stub.name, stub)
    folder = Path("models", "tutorial", "1")
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("triton_model.py"), folder / "model.py")
    (folder.parent / "config.pbtxt").write_text(CONFIG)
    environment = {
        **os.environ,
        "BENCH_MODEL": model,
        "BENCH_PACKAGES": str(packages),
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
    }
    command = [f"{triton}/bin/tritonserver", "--model-repository=models", f"--backend-directory={triton}/backends"]
    command += ["--disable-auto-complete-config"]  # it takes seconds, and the configuration is complete
    for name, port in ("grpc", grpc), ("http", http), ("metrics", metrics):
        command += [f"--{name}-address=127.0.0.1", f"--{name}-port={port}"]
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
