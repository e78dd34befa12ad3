"""What is known of the models: asked once, remembered, and asked again when it turns out to be no longer true."""

from conveyor_server.client.asking import MODEL_CONFIG, MODEL_METADATA, Asking, Steps
from conveyor_server.client.descriptions import ModelDescription
from conveyor_server.client.errors import CallError, NotFound, NotSupported
from conveyor_server.generated import inference_pb2 as pb


class ModelDescriptions:
    """The descriptions of one server's models, as steps without I/O."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._known: dict[tuple[str, str], ModelDescription] = {}

    def remembered(self, model: str, version: str) -> ModelDescription | None:
        """The description, if it has been asked for before."""
        return self._known.get((model, version))

    def ask(self, model: str, version: str, deadline: float) -> Steps[ModelDescription]:
        """The server's description, which is remembered instead of what was."""
        question = pb.ModelMetadataRequest(name=model, version=version).SerializeToString()
        try:
            metadata = yield from self._asking.ask(MODEL_METADATA, question, deadline)
        except NotFound:
            self._known.pop((model, version), None)
            raise
        try:
            wanted = pb.ModelConfigRequest(name=model, version=version).SerializeToString()
            config = yield from self._asking.ask(MODEL_CONFIG, wanted, deadline)
        except NotSupported:  # an extension, which not every server of the protocol has
            config = pb.ModelConfigResponse()
        description = self._known[model, version] = ModelDescription.read(metadata, config, version)
        return description

    def ask_whether_changed(
        self, model: str, version: str, known: ModelDescription | None, deadline: float
    ) -> Steps[ModelDescription | None]:
        """The server's description, if there is one and its signature is not the known one."""
        try:
            current = yield from self.ask(model, version, deadline)
        except CallError:
            return None
        same = known is not None and (current.inputs, current.outputs) == (known.inputs, known.outputs)
        return None if same else current
