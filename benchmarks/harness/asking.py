"""Asks a server one question and looks whether the answer is right. Times nothing."""

import http.client
from typing import NamedTuple

import grpc
import numpy as np

from conveyor_server.generated import inference_pb2 as pb
from harness import network
from harness.servers import Kind, Server

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
RAW = "application/octet-stream"
PREFIX = 5
"""Bytes before each message of gRPC."""
_TIMEOUT = 10.0
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


class NoAnswer(Exception):
    """Nobody listens, or it is no answer."""


class Answer(NamedTuple):
    """What came back."""

    outputs: np.ndarray
    size: int
    """Bytes of the body: with gRPC its message and the five bytes before it."""


def ask_and_check(
    server: Server, port: int, pixels: np.ndarray, *, stream: bool = False, size: str = network.TUTORIAL
) -> Answer:
    """One request whose answer must be right, by a stream of one request if asked.

    Raises:
        NoAnswer: there was none.
        WrongAnswer: it is not what ONNX Runtime says in this process.
    """
    answer = _ask_grpc(port, pixels, stream) if server.protocol == "gRPC" else _ask_http(port, server.path, pixels)
    if server.kind is Kind.FLOOR:
        if answer.outputs.size != len(pixels):
            raise network.WrongAnswer(f"{answer.outputs.size} zeros came for {len(pixels)} images.")
    else:
        network.check(pixels, answer.outputs, size)
    return answer


def ask_one_image(server: Server, port: int, size: str = network.TUTORIAL) -> None:
    """As `ask_and_check`, with one image."""
    ask_and_check(server, port, network.images(1), size=size)


def ask_whether_ready(_server: Server, port: int) -> None:
    """Raises NoAnswer unless a gRPC server says that it is ready."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", _OPTIONS) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        try:
            answer = pb.ServerReadyResponse.FromString(call(b"", timeout=_TIMEOUT))
        except grpc.RpcError as error:
            raise NoAnswer(f"{error.code().name}: {error.details()}") from error
    if not answer.ready:
        raise NoAnswer("it says that it is not ready")


def _ask_grpc(port: int, pixels: np.ndarray, stream: bool) -> Answer:
    request = network.message(pixels)
    with grpc.insecure_channel(f"127.0.0.1:{port}", _OPTIONS) as channel:  # bytes both ways
        try:
            if not stream:
                response = channel.unary_unary(MODEL_INFER)(request, timeout=_TIMEOUT)
                return Answer(network.outputs_of(response), len(response) + PREFIX)
            (response,) = channel.stream_stream(MODEL_STREAM_INFER)(iter([request]), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            raise NoAnswer(f"{error.code().name}: {error.details()}") from error
    answer = pb.ModelStreamInferResponse.FromString(response)
    if answer.error_message:
        raise NoAnswer(answer.error_message)
    return Answer(network.outputs_of(answer.infer_response.SerializeToString()), len(response) + PREFIX)


def _ask_http(port: int, path: str, pixels: np.ndarray) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    try:
        connection.request("POST", path, pixels.tobytes(), {"content-type": RAW})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(repr(error)) from error
    finally:
        connection.close()
    if response.status != 200:
        raise NoAnswer(f"{response.status} {body[:200]!r}")
    return Answer(np.frombuffer(body, np.float32), len(body))
