"""What Triton's Python back end runs: one run of ONNX Runtime for all requests that the batcher has gathered."""

import os
import sys

sys.path.append(os.environ["BENCH_PACKAGES"])  # Triton's interpreter knows no environment
import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """The interface that the back end asks for."""

    def initialize(self, _arguments: dict) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options)

    def execute(self, requests: list) -> list:
        images = [triton.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        (outputs,) = self.session.run(None, {"image": np.concatenate(images) if len(images) > 1 else images[0]})
        responses, begin = [], 0
        for rows in map(len, images):
            tensor = triton.Tensor("probability", outputs[begin : begin + rows])
            responses.append(triton.InferenceResponse([tensor]))
            begin += rows
        return responses
