"""KServe's Python SDK. It has no batching of its own for gRPC."""

import sys

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Tutorial(Model):
    """The interface that KServe asks for."""

    def __init__(self, path: str) -> None:
        super().__init__("tutorial")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.ready = True

    def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        (outputs,) = self.session.run(None, {"image": payload.inputs[0].as_numpy()})
        tensor = InferOutput(name="probability", shape=list(outputs.shape), datatype="FP32")
        tensor.set_data_from_numpy(outputs)
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=[tensor])


if __name__ == "__main__":
    model, grpc, http, _ = sys.argv[1:]
    server = ModelServer(
        grpc_port=int(grpc),
        http_port=int(http),
        enable_latency_logging=False,  # a log line a request
    )
    server.start([Tutorial(model)])
