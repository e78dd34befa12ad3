"""What one client, or many, can make a server hold: connections and their age, streams, pings, sizes."""

import asyncio
import contextlib
import gzip
import json
import re
import socket
import urllib.request
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from conveyor_server.generated import inference_pb2 as pb
from support.balancers import free_ports
from support.fleet import RETRY_POLICY, Load, question
from support.name_server import NameServer
from support.onnx_models import classifier, save
from support.processes import ServerProcess
from support.relay import Relay

SERVICE = "/inference.GRPCInferenceService/"
IMAGES = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
MIB = 2**20
STATUS_NAMES = b"grpc-status", bytes.fromhex("9acac8b21234da8f")
"""As it is, and in HPACK's Huffman code."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GOAWAY = bytes([7, 0, 0, 0, 0, 0])
"""Type, flags and stream of its frame."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(classifier(seed=1), root, "digits")
    return root


@pytest.fixture(scope="module")
def server(transport, repository):
    with ServerProcess(repository) as process:
        yield process


def good(request_id=""):
    request = pb.ModelInferRequest(model_name="digits", id=request_id, raw_input_contents=[IMAGES.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=IMAGES.shape)
    return request.SerializeToString()


async def ask(channel, data=None, **options):
    """The code and text of the answer."""
    try:
        await channel.unary_unary(SERVICE + "ModelInfer")(good() if data is None else data, timeout=60, **options)
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def peak(server):
    """The most memory that the server ever had, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


async def test_connections_end_at_their_age_and_no_request_is_lost(repository):
    with ServerProcess(repository, "--max-connection-age-seconds", "0.2") as server:
        async with Relay(server.grpc_url) as relay:
            options = [("grpc.service_config", json.dumps(RETRY_POLICY))]
            channel = grpc.aio.insecure_channel(relay.url, options=options)
            async with Load("one channel", channel, [question("digits", IMAGES)], clients=16, pause=0) as load:
                while relay.connections < 15:
                    await load.progress(50)
            print("\n" + load.report("connections of 0.2 s", f", {relay.connections} connections"))
    assert load.failures == []


async def test_clients_that_balance_themselves_find_new_replicas_by_the_age_of_their_connections(repository):
    """Their names are asked for anew only when a connection ends. Here the replicas differ by their address."""
    [port] = free_ports(1)
    flags = ["--max-connection-age-seconds", "0.5"]
    async with NameServer("127.0.0.1") as names:
        options = [("grpc.dns_min_time_between_resolutions_ms", 100)]
        config = {"loadBalancingConfig": [{"round_robin": {}}], **RETRY_POLICY}
        options += [("grpc.service_config", json.dumps(config))]
        old = ServerProcess(repository, *flags, ports=(port, 0))
        new = ServerProcess(repository, *flags, "--host", "127.0.0.2", ports=(port, 0))
        with old, new:
            channel = grpc.aio.insecure_channel(f"dns://{names.url}/conveyor:{port}", options=options)
            async with Load("itself", channel, [question("digits", IMAGES)], clients=2) as load:
                await load.progress(50)
                assert received(new) == 0
                names.addresses.append("127.0.0.2")
                async with asyncio.timeout(60):
                    while received(new) < 50:
                        await load.progress(20)
    assert load.failures == []


def received(server):
    """Predictions that a server was asked for."""
    with urllib.request.urlopen(f"{server.http_url}/metrics", timeout=30) as response:
        page = response.read().decode()
    return sum(int(float(count)) for count in re.findall(r"^conveyor_requests_total{.*} (\S+)", page, re.MULTILINE))


async def test_a_stream_outlives_its_connections_age_by_the_grace(repository):
    flags = ["--max-connection-age-seconds", "0.2", "--max-connection-grace-seconds", "1"]
    with ServerProcess(repository, *flags) as server:
        async with Relay(server.grpc_url) as relay, grpc.aio.insecure_channel(relay.url) as channel:
            stream = channel.stream_stream(
                SERVICE + "ModelStreamInfer", response_deserializer=pb.ModelStreamInferResponse.FromString
            )()

            async def turn():
                await stream.write(good())
                answer = await stream.read()
                return "" if answer is grpc.aio.EOF else answer.infer_response.model_name

            assert await turn() == "digits"
            while relay.connections < 2:  # others have had to leave by then
                assert (await ask(channel))[0] == "OK"
            assert await turn() == "digits"
            # Then grpc cuts the connection off; what it says of that depends on where the stream is.
            ended = await asyncio.wait_for(until_it_ends(stream, turn), 60)
            assert ended.name in ("UNAVAILABLE", "INTERNAL")


async def until_it_ends(stream, turn):
    while not stream.done():
        with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            await turn()
    return await stream.code()


async def test_a_connection_without_calls_is_closed_and_its_client_notices_nothing(repository):
    with ServerProcess(repository, "--max-connection-idle-seconds", "0.2") as server:
        async with Relay(server.grpc_url) as relay, grpc.aio.insecure_channel(relay.url) as channel:
            assert (await ask(channel))[0] == "OK"
            async with asyncio.timeout(60):
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
            assert (await ask(channel))[0] == "OK"
            assert relay.connections == 2


def connect(url):
    """A socket that has begun with HTTP/2, or that the server closed before it could."""
    host, port = url.split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    with contextlib.suppress(ConnectionError):
        connection.sendall(PREFACE + frame(4, 0, 0, b""))
    return connection


@pytest.mark.parametrize("transport", ["grpcio"], indirect=True)
async def test_connections_above_the_limit_are_closed_at_once(repository):
    with ServerProcess(repository, "--max-connections", "4") as server:
        held = [connect(server.grpc_url) for _ in range(4)]
        assert all(connection.recv(9) for connection in held)
        with connect(server.grpc_url) as one_more:
            assert one_more.recv(9) == b""
        async with grpc.aio.insecure_channel(server.grpc_url) as channel:
            assert (await ask(channel))[0] == "UNAVAILABLE"
        for connection in held:
            connection.close()
        async with grpc.aio.insecure_channel(server.grpc_url) as channel, asyncio.timeout(60):
            while (await ask(channel, wait_for_ready=True))[0] != "OK":
                pass


@pytest.mark.parametrize("transport", ["h2"], indirect=True)
async def test_idle_connections_above_the_limit_give_way(repository):
    """Whoever holds connections only to hold them keeps nobody out; a client that works loses nothing."""
    with ServerProcess(repository, "--max-connections", "4") as server:
        async with grpc.aio.insecure_channel(server.grpc_url) as working:
            slow = asyncio.create_task(working.stream_stream(SERVICE + "ModelStreamInfer")(never()).code())
            assert (await ask(working))[0] == "OK"
            with contextlib.ExitStack() as sockets:
                held = [sockets.enter_context(connect(server.grpc_url)) for _ in range(30)]
                async with grpc.aio.insecure_channel(server.grpc_url) as channel:
                    assert (await ask(channel, wait_for_ready=True))[0] == "OK"
                assert (await ask(working))[0] == "OK"
                assert not slow.done()
                gone = await asyncio.to_thread(lambda: [read_to_end(connection) for connection in held[:20]])
                assert all(not data or GOAWAY in data for data in gone), "GOAWAY, or nothing was promised"


async def never():
    await asyncio.sleep(600)
    yield b""


def read_to_end(connection):
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while block := connection.recv(65536):
            data += block
    return data


async def test_a_client_that_pings_without_end_is_sent_away(server, transport):
    """Now and then is fine. grpcio wants ten seconds between them; the other transport counts what they cost."""
    pings = 600 if transport == "grpcio" else 30_000

    def flood():
        with connect(server.grpc_url) as connection:
            received = b""
            connection.sendall(frame(4, 1, 0, b""))
            for _ in range(0, pings, 6):
                connection.sendall(6 * frame(6, 0, 0, b"12345678"))
                received = received[-1000:] + connection.recv(65536)
                if b"too_many_pings" in received:
                    return True
            return False

    assert await asyncio.to_thread(flood)
    async with grpc.aio.insecure_channel(server.grpc_url) as channel:
        assert (await ask(channel))[0] == "OK"


async def test_more_than_any_model_takes_is_refused_with_the_size_that_is_taken(server):
    limit = 1024 * 8 * 8 * 4 + MIB  # the model's largest batch, and room for everything else
    async with grpc.aio.insecure_channel(server.grpc_url) as channel:
        assert (await ask(channel, bytes(limit)))[0] == "INVALID_ARGUMENT"
        code, text = await ask(channel, bytes(limit + 1))
        assert code == "RESOURCE_EXHAUSTED"
        assert text.startswith(f"The request has {limit + 1} bytes; no model here takes more than {limit}")


async def test_a_message_that_grows_when_it_is_decompressed_takes_no_memory(repository):
    """60 MiB of zeros are 60 KB on the way. The limit holds for what comes out, and nothing beyond it comes out."""
    packed = await asyncio.to_thread(gzip.compress, bytes(60 * MIB), 9)
    message = b"\x01" + len(packed).to_bytes(4, "big") + packed
    assert len(message) < 65535, "as much as may be sent at once"
    with ServerProcess(repository, "--max-message-bytes", str(MIB)) as server:
        async with grpc.aio.insecure_channel(server.grpc_url) as channel:
            assert (await ask(channel))[0] == "OK"
            before = peak(server)
            for _ in range(3):
                received = await asyncio.to_thread(send_raw, server.grpc_url, message)
                assert any(name + b"\x018" in received for name in STATUS_NAMES), "RESOURCE_EXHAUSTED"
            assert peak(server) < before + 30 * MIB
            assert (await ask(channel, compression=grpc.Compression.Gzip))[0] == "OK", "compressed requests are welcome"


def send_raw(url, message):
    """Sends one request with a message that is compressed already; returns what comes until the call ends."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": SERVICE + "ModelInfer",
        ":authority": "x",
        "te": "trailers",
    }
    fields |= {"content-type": "application/grpc", "grpc-encoding": "gzip"}
    headers = b"".join(b"\0" + text(name) + text(value) for name, value in fields.items())
    received = b""
    with connect(url) as connection:
        connection.sendall(frame(4, 1, 0, b"") + frame(1, 4, 1, headers))
        for start in range(0, len(message), 16384):
            last = start + 16384 >= len(message)
            connection.sendall(frame(0, int(last), 1, message[start : start + 16384]))
        while not any(name in received for name in STATUS_NAMES) and (block := connection.recv(65536)):
            received += block
    return received


def text(value):
    return bytes([len(value)]) + value.encode()


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
