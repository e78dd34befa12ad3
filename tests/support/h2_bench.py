"""A real model behind a session, without sockets: what the server does for requests, and nothing else."""

import asyncio

import ngh2
import numpy as np

from conveyor_server.core.batch_queue import QueuePolicy
from conveyor_server.engine.repository import Repository
from conveyor_server.engine.runtime_options import RuntimeOptions
from conveyor_server.engine.served_model import ModelLoader
from conveyor_server.engine.serving import ServingDefaults
from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.metrics import Metrics
from conveyor_server.wire.h2.admission import Admission
from conveyor_server.wire.h2.limits import Limits
from conveyor_server.wire.h2.messages import frame
from conveyor_server.wire.h2.session import Session, Shared
from conveyor_server.wire.service import SERVICE, InferenceService
from conveyor_server.wire.traffic import Traffic
from support.onnx_models import classifier, save

READ_AT_ONCE = 2**16
HEADERS = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", f"/{SERVICE}/ModelInfer".encode()),
    (b":authority", b"test"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)


class ModelBehindSession:
    """Takes bursts of requests, as a connection would bring them."""

    def __init__(self, root):
        save(classifier(), root, "digits")
        self.traffic = Traffic()
        metrics = Metrics()
        loader = ModelLoader(ServingDefaults(RuntimeOptions(), QueuePolicy(10**4, 10**8)), metrics.for_model)
        self.repository = Repository(root, loader)
        self.service = InferenceService(self.repository, metrics)
        self.answered = 0

    async def open(self):
        await self.repository.load()
        routes = {f"/{SERVICE}/{method}".encode(): rpc for method, rpc in self.service.rpcs[SERVICE].items()}
        shared = Shared(routes, Limits(), self.traffic, None, Admission(self.traffic, 10_000))
        self.session = Session(shared, lambda: None)
        self.client = ngh2.Connection(ngh2.Role.CLIENT)
        self.client.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: 2**24})
        self.client.set_local_window_size(2**28)
        for _ in range(3):
            self._exchange()

    def request(self, rows):
        images = np.random.default_rng(0).random((rows, 8, 8, 1), np.float32)
        request = pb.ModelInferRequest(model_name="digits")
        request.inputs.add(name="image", datatype="FP32", shape=images.shape)
        request.raw_input_contents.append(images.tobytes())
        return frame(request.SerializeToString())

    async def burst(self, message, count):
        """So many requests at once, until all are answered."""
        for _ in range(count):
            self.client.send_data(self.client.send_request(HEADERS), message, end_stream=True)
        expected = self.answered + count
        while self.answered < expected:
            self._exchange()
            await asyncio.sleep(0)

    def _exchange(self):
        while data := self.client.data_to_send():
            for start in range(0, len(data), READ_AT_ONCE):
                self.session.receive(memoryview(data)[start : start + READ_AT_ONCE])
        if data := self.session.output(2**24):
            self.client.receive_data(data)
        self.answered += sum(isinstance(event, ngh2.StreamClosed) for event in self.client.events())
