"""mosec: a server in Rust that gathers requests, and a worker process in Python. Bodies are raw float32."""

import os
import sys

import numpy as np
import onnxruntime
from mosec import Server, Worker


class Tutorial(Worker):
    """The interface that mosec asks for."""

    def __init__(self) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options)

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.float32).reshape(-1, 28, 28, 1)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        (outputs,) = self.session.run(None, {"image": np.concatenate(data)})
        return np.split(outputs, np.cumsum([len(images) for images in data])[:-1])


if __name__ == "__main__":
    # mosec reads its own flags from the command line, here and in the worker.
    if len(sys.argv) == 5:
        os.environ["BENCH_MODEL"], port, _, _ = sys.argv[1:]
        os.execv(
            sys.executable,
            [sys.executable, __file__, "--address", "127.0.0.1", "--port", port, "--path", os.path.abspath("sockets")],
        )
    server = Server()
    server.append_worker(Tutorial, num=1, max_batch_size=64, max_wait_time=1)
    server.run()
