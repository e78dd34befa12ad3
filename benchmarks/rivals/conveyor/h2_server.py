"""What an asyncio protocol over the library ngh2 costs without a model: it reads a request, and answers zeros.

No server: it knows one method, and trusts its client.
"""

import asyncio
import sys

import ngh2
from grpcio_server import answer

from conveyor_server.generated import inference_pb2 as pb

HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS = [(b"grpc-status", b"0")]
PREFIX = 5
"""Bytes before a message of gRPC: whether it is compressed, and its length."""


class Echo(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.bodies: dict[int, bytearray] = {}
        self.connection = ngh2.Connection(ngh2.Role.SERVER)
        self.connection.initiate_connection(
            {ngh2.Setting.MAX_CONCURRENT_STREAMS: 1000, ngh2.Setting.INITIAL_WINDOW_SIZE: 1 << 24}
        )
        self.connection.set_local_window_size(1 << 24)
        transport.write(self.connection.data_to_send())

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        connection.receive_data(data)
        for event in connection.events():
            if isinstance(event, ngh2.RequestReceived):
                self.bodies[event.stream_id] = bytearray()
            elif isinstance(event, ngh2.DataReceived):
                self.bodies[event.stream_id] += event.data
                if event.end_stream:
                    self.reply(event.stream_id, self.bodies.pop(event.stream_id))
            elif isinstance(event, ngh2.StreamReset):
                self.bodies.pop(event.stream_id, None)
        if out := connection.data_to_send():
            self.transport.write(out)

    def reply(self, stream: int, body: bytearray) -> None:
        message = answer(pb.ModelInferRequest.FromString(bytes(body[PREFIX:]))).SerializeToString()
        self.connection.send_response(stream, HEAD)
        self.connection.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message)
        self.connection.send_trailers(stream, TRAILERS)


async def main() -> None:
    _, port, _, _ = sys.argv[1:]
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", int(port))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
