"""What grpcio's asyncio server costs without a model: it reads a request, and answers zeros."""

import asyncio
import sys

import grpc
import numpy as np

from conveyor_server.generated import inference_pb2 as pb


def answer(request: pb.ModelInferRequest, _context: object = None) -> pb.ModelInferResponse:
    rows = request.inputs[0].shape[0]
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    response.outputs.add(name="probability", datatype="FP32", shape=[rows, 1])
    response.raw_output_contents.append(np.zeros(rows, np.float32).tobytes())
    return response


async def model_infer(request: pb.ModelInferRequest, _context: grpc.aio.ServicerContext) -> pb.ModelInferResponse:
    return answer(request)


async def main() -> None:
    _, port, _, _ = sys.argv[1:]
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handler = grpc.unary_unary_rpc_method_handler(
        model_infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
