"""Whatever comes, a real server answers with the right code, stays well, and keeps its memory."""

import errno
import random
import socket
import time
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from conveyor_server.generated import inference_pb2 as pb
from support.onnx_models import add_sub, classifier, identity, save
from support.processes import ServerProcess

SERVICE = "/inference.GRPCInferenceService/"
FAIR = {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MEMORY_MARGIN = 64 * 2**20
REAL = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def server(transport, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(classifier(), root, "digits")
    save(add_sub(), root, "simple")
    save(identity(TensorProto.STRING), root, "strings")
    save(identity(TensorProto.BFLOAT16), root, "bf16")
    save(identity(TensorProto.BOOL, [2, "n"]), root, "unbatched")
    with ServerProcess(root, "--max-message-bytes", str(2**20)) as process:
        yield process


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        yield channel


@pytest.fixture(autouse=True)
def memory_stays(server, channel):
    for _ in range(50):
        assert is_well(channel)
    before = memory(server)
    yield
    assert is_well(channel)
    assert memory(server) < before + MEMORY_MARGIN
    assert not [line for line in server.log if "This is a bug" in line]


def memory(server):
    """Resident bytes of the server's process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def ask(channel, data, method="ModelInfer"):
    """The code of the answer to a request of these bytes."""
    try:
        channel.unary_unary(SERVICE + method)(data, timeout=30)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def is_well(channel):
    """Whether it answers a good request, at the latest when grpcio's server was replaced."""
    for _ in range(100):
        if ask(channel, good().SerializeToString()) == "OK":
            return True
        time.sleep(0.05)
    return False


def good():
    request = pb.ModelInferRequest(model_name="simple", id="x", raw_input_contents=[bytes(64)] * 2)
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
    return request


names = st.sampled_from(["", "simple", "digits", "strings", "bf16", "unbatched", "nope", "é\n\0", "x" * 300])
tensor_names = st.sampled_from(["INPUT0", "INPUT1", "image", "input", "output", "OUTPUT0", "probabilities", "", "?"])
datatypes = st.sampled_from(["INT32", "FP32", "BYTES", "BF16", "BOOL", "FP64", "", "int32", "\0"])
sizes = st.one_of(st.integers(-2, 17), st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63), 1025]))
raws = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [bytes(64), bytes(256), b"\x01\0\0\0a", b"\xff\xff\xff\xff", b"\x02\0\0\0\xff\xfe", bytes(1025 * 4)]
    ),
)
parameter = st.one_of(
    st.builds(pb.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)),
    st.builds(pb.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
    st.builds(pb.InferParameter, bool_param=st.booleans()),
    st.builds(pb.InferParameter, double_param=st.floats()),
    st.builds(pb.InferParameter, string_param=st.text(max_size=5)),
    st.builds(pb.InferParameter),
)
parameters = st.dictionaries(
    st.sampled_from(["priority", "timeout", "sequence_id", "triton_x", "mine", "", "classification"]),
    parameter,
    max_size=3,
)
contents = st.builds(
    pb.InferTensorContents,
    int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=17),
    fp32_contents=st.lists(st.floats(width=32), max_size=3),
    bytes_contents=st.lists(st.binary(max_size=4), max_size=3),
    bool_contents=st.lists(st.booleans(), max_size=3),
)
inputs = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=tensor_names,
    datatype=datatypes,
    shape=st.lists(sizes, max_size=5),
    contents=st.one_of(st.none(), contents),
    parameters=parameters,
)
outputs = st.builds(pb.ModelInferRequest.InferRequestedOutputTensor, name=tensor_names, parameters=parameters)
wild = st.builds(
    pb.ModelInferRequest,
    model_name=names,
    model_version=st.sampled_from(["", "1", "01", "2", "-1", "x", "9" * 40, "²"]),
    id=st.text(max_size=5),
    parameters=parameters,
    inputs=st.lists(inputs, max_size=4),
    outputs=st.lists(outputs, max_size=3),
    raw_input_contents=st.lists(raws, max_size=4),
)


@st.composite
def nearly_good(draw):
    """A good request with a few fields of wild ones."""
    request, other = good(), draw(wild)
    for field in draw(st.sets(st.sampled_from(list(request.DESCRIPTOR.fields_by_name)), max_size=2)):
        merged = pb.ModelInferRequest()
        merged.CopyFrom(other)
        for name in request.DESCRIPTOR.fields_by_name:
            if name != field:
                merged.ClearField(name)
        request.ClearField(field)
        request.MergeFrom(merged)
    for tensor in request.inputs:
        if draw(st.booleans()):
            tensor.shape[:] = draw(st.lists(sizes, max_size=4))
    return request


@REAL
@given(st.one_of(wild, nearly_good()))
def test_a_request_of_any_content_gets_a_fair_code(channel, request_):
    assert ask(channel, request_.SerializeToString()) in FAIR


@REAL
@given(st.data())
def test_a_request_with_broken_bytes_gets_a_fair_code(channel, data):
    whole = bytearray(good().SerializeToString())
    for _ in range(data.draw(st.integers(1, 5))):
        position = data.draw(st.integers(0, len(whole) - 1))
        whole[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    method = data.draw(
        st.sampled_from(["ModelInfer", "ModelConfig", "ModelStatistics", "RepositoryIndex", "ModelReady"])
    )
    assert ask(channel, bytes(whole), method) in FAIR


@REAL
@given(st.lists(st.one_of(wild.map(pb.ModelInferRequest.SerializeToString), st.binary(max_size=20)), max_size=12))
def test_every_request_of_a_stream_is_answered(channel, requests):
    stream = channel.stream_stream(SERVICE + "ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString)
    answers = list(stream(iter([*requests, good().SerializeToString()]), timeout=30))
    assert len(answers) == len(requests) + 1
    assert any(answer.infer_response.raw_output_contents and not answer.error_message for answer in answers)
    assert not [answer.error_message for answer in answers if "log has the details" in answer.error_message]


def test_a_request_over_the_limit_is_refused(channel):
    request = good()
    request.raw_input_contents[0] = bytes(2**20)
    assert ask(channel, request.SerializeToString()) == "RESOURCE_EXHAUSTED"


def frame(kind, flags, stream, payload, length=None):
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


frames = st.builds(
    frame,
    kind=st.integers(0, 12),
    flags=st.integers(0, 255),
    stream=st.sampled_from([0, 1, 2, 3, 5, 2**31 - 1, 2**32 - 1]),
    payload=st.binary(max_size=60),
    length=st.one_of(st.none(), st.integers(0, 100), st.just(2**24 - 1)),
)
SETTINGS = frame(4, 0, 0, b"")
# A request in the plainest form of HPACK: each header a literal that is not indexed.
HEADERS = b"".join(
    b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", f"{SERVICE}ModelInfer".encode()),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
)


MESSAGE = good().SerializeToString()
BODY = b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE
WHOLE = PREFACE + SETTINGS + frame(1, 4, 1, HEADERS) + frame(0, 1, 1, BODY)


def exchange(url, data):
    """Sends these bytes and no more, and reads until the server closes; it must, in bounded time."""
    received = 0
    with connect(url) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while block := connection.recv(65536):
                received += len(block)
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):  # the server had enough
                raise
    return received


def connect(url):
    """A connection to the server, which may be on its way back from a request that broke grpcio's."""
    host, port = url.rsplit(":", 1)
    for _ in range(100):
        try:
            return socket.create_connection((host, int(port)), timeout=30)
        except (ConnectionRefusedError, ConnectionResetError):
            time.sleep(0.05)
    raise AssertionError("the server is gone")


def test_the_bytes_that_are_broken_below_are_a_request_when_whole(server):
    with connect(server.grpc_url) as connection:
        connection.sendall(WHOLE)
        received = b""
        while b"OUTPUT1" not in received:
            received += connection.recv(65536)


@REAL
@given(
    st.one_of(
        st.binary(max_size=200), st.lists(frames, max_size=8).map(lambda some: PREFACE + SETTINGS + b"".join(some))
    )
)
def test_a_connection_of_any_bytes_ends(server, data):
    assert exchange(server.grpc_url, data) < 2**20


@REAL
@given(st.data())
def test_a_real_request_in_broken_frames_ends(server, data):
    whole = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(0, 4))):
        position = data.draw(st.integers(0, len(whole) - 1))
        whole[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(whole))))
    assert exchange(server.grpc_url, bytes(whole[:cut])) < 2**20


def test_a_path_that_is_not_text_does_not_end_the_server(server, channel):
    """It breaks grpcio's, which must be replaced."""
    headers = HEADERS.replace(b"inference.GRPC", b"infer\xd5nce.GRPC")
    for _ in range(3):
        exchange(server.grpc_url, PREFACE + SETTINGS + frame(1, 4, 1, headers) + frame(0, 1, 1, bytes(5)))
        assert is_well(channel)


def test_connections_that_say_nothing_hinder_no_one(server, channel):
    silent = [connect(server.grpc_url) for _ in range(50)]
    for number, connection in enumerate(silent):
        connection.sendall((PREFACE + SETTINGS + frame(1, 4, 1, HEADERS))[: number * 5])
    assert ask(channel, good().SerializeToString()) == "OK"
    for connection in silent:
        connection.close()


def test_memory_is_flat_under_many_bad_requests(server, channel):
    chaos = random.Random(0)
    body = good().SerializeToString()

    def broken():
        request = bytearray(body)
        request[chaos.randrange(len(request))] = chaos.randrange(256)
        return bytes(request)

    for _ in range(300):
        ask(channel, broken())
    before = memory(server)
    for _ in range(1500):
        ask(channel, broken())
    assert memory(server) < before + MEMORY_MARGIN / 4


def test_memory_is_flat_under_many_broken_connections(server):
    chaos = random.Random(0)

    def broken():
        data = bytearray(WHOLE)
        for _ in range(chaos.randrange(1, 4)):
            data[chaos.randrange(len(PREFACE), len(data))] = chaos.randrange(256)
        return bytes(data[: chaos.randrange(len(PREFACE), 2 * len(data))])

    for _ in range(300):
        exchange(server.grpc_url, broken())
    before = memory(server)
    for _ in range(1500):
        exchange(server.grpc_url, broken())
    assert memory(server) < before + MEMORY_MARGIN / 4
