"""LitServe with its batching. Bodies are raw float32."""

import os
import sys
from typing import Annotated

import litserve
import numpy as np
import onnxruntime
from fastapi import Body, Response


class Tutorial(litserve.LitAPI):
    """The interface that LitServe asks for."""

    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options)

    def decode_request(self, request: Annotated[bytes, Body()]) -> np.ndarray:
        return np.frombuffer(request, np.float32).reshape(-1, 28, 28, 1)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        self.rows = [len(images) for images in inputs]
        return np.concatenate(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"image": x})[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return np.split(output, np.cumsum(self.rows)[:-1])

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(content=output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    os.environ["BENCH_MODEL"], port, _, _ = sys.argv[1:]
    server = litserve.LitServer(Tutorial(max_batch_size=64, batch_timeout=0.001), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(port), num_api_servers=1, log_level="warning", generate_client_file=False)
