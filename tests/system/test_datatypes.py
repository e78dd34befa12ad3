"""Every datatype of the protocol through a real server, raw and, where the protocol has a field for it, typed."""

import grpc
import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from tritonclient.grpc import service_pb2, service_pb2_grpc

from support.onnx_models import identity, save
from support.processes import ServerProcess

NUMBERS = {
    "BOOL": (TensorProto.BOOL, np.bool_, "bool_contents"),
    "UINT8": (TensorProto.UINT8, np.uint8, "uint_contents"),
    "UINT16": (TensorProto.UINT16, np.uint16, "uint_contents"),
    "UINT32": (TensorProto.UINT32, np.uint32, "uint_contents"),
    "UINT64": (TensorProto.UINT64, np.uint64, "uint64_contents"),
    "INT8": (TensorProto.INT8, np.int8, "int_contents"),
    "INT16": (TensorProto.INT16, np.int16, "int_contents"),
    "INT32": (TensorProto.INT32, np.int32, "int_contents"),
    "INT64": (TensorProto.INT64, np.int64, "int64_contents"),
    "FP16": (TensorProto.FLOAT16, np.float16, None),
    "BF16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, None),
    "FP32": (TensorProto.FLOAT, np.float32, "fp32_contents"),
    "FP64": (TensorProto.DOUBLE, np.float64, "fp64_contents"),
}
TEXTS = [b"", b"a", "ü".encode(), "\0…".encode()]
RAW_TEXTS = b"".join(len(text).to_bytes(4, "little") + text for text in TEXTS)


@pytest.fixture(scope="module")
def stub(transport, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, kind in [*((name, kind) for name, (kind, _, _) in NUMBERS.items()), ("BYTES", TensorProto.STRING)]:
        save(identity(kind), root, name)
        (root / name / "config.pbtxt").write_text(
            "dynamic_batching { preferred_batch_size: [4] }"
        )  # nothing to measure
    with ServerProcess(root) as server, grpc.insecure_channel(server.grpc_url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def extremes(dtype):
    if np.issubdtype(dtype, np.integer):
        return np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max, 0, 1]], dtype)
    return np.array([[0, 1, 0, 1]] if dtype is np.bool_ else [[1.5, -2.25, -0.0, np.inf]], dtype)


def echo(stub, datatype, *, raw=None, field=None, values=()):
    request = service_pb2.ModelInferRequest(model_name=datatype)
    tensor = request.inputs.add(name="input", datatype=datatype, shape=[1, 4])
    if raw is not None:
        request.raw_input_contents.append(raw)
    else:
        getattr(tensor.contents, field).extend(values)
    response = stub.ModelInfer(request, timeout=60)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == (datatype, [1, 4])
    return response.raw_output_contents[0]


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers(stub, datatype):
    _, dtype, field = NUMBERS[datatype]
    data = extremes(dtype)
    assert echo(stub, datatype, raw=data.tobytes()) == data.tobytes()
    if field:
        assert echo(stub, datatype, field=field, values=data[0].tolist()) == data.tobytes()


def test_strings(stub):
    assert echo(stub, "BYTES", raw=RAW_TEXTS) == RAW_TEXTS
    assert echo(stub, "BYTES", field="bytes_contents", values=TEXTS) == RAW_TEXTS
