"""Ray Serve with its batching. Bodies are raw float32."""

import os
import sys
import tempfile

import numpy as np
import onnxruntime
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Tutorial:
    """The deployment."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def infer(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        (outputs,) = self.session.run(None, {"image": np.concatenate(inputs)})
        return np.split(outputs, np.cumsum([len(images) for images in inputs])[:-1])

    async def __call__(self, request: Request) -> Response:
        images = np.frombuffer(await request.body(), np.float32).reshape(-1, 28, 28, 1)
        return Response((await self.infer(images)).tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    model, port, _, _ = sys.argv[1:]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short path: it holds sockets
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder, _node_ip_address="127.0.0.1"
        )
        serve.start(http_options={"host": "127.0.0.1", "port": int(port)}, logging_config={"enable_access_log": False})
        serve.run(Tutorial.bind(model), blocking=True)
