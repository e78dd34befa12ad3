"""The repository as clients see and change it: index, load, unload."""

from google.protobuf import json_format, text_format

from conveyor_server.core.errors import FilesNotTaken, InvalidRequest, ModelControlOff, NotPermitted
from conveyor_server.engine.model_versions import ModelStatus
from conveyor_server.engine.repository import Repository
from conveyor_server.generated import inference_pb2 as pb
from conveyor_server.generated import model_config_pb2 as config_pb
from conveyor_server.generated.pool import Default
from conveyor_server.wire.merging import merge_index
from conveyor_server.wire.siblings import ModelChanges, Siblings

_Request = pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest


class ModelControl:
    """The RPCs of the extension `model_repository`.

    Args:
        repository: the models.
        siblings: all processes that serve the same port; None when it is this one alone.
        allowed: whether clients may load and unload models at all.
        explicit: whether models are loaded by request, and not with what is in the repository.
    """

    def __init__(
        self, repository: Repository, siblings: Siblings | None = None, *, allowed: bool, explicit: bool
    ) -> None:
        self._repository = repository
        self._siblings = siblings
        self._changes: ModelChanges = siblings or repository
        self._allowed = allowed
        self._explicit = explicit

    async def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Every version with its state; the reason tells why one does not answer."""
        _refuse_name(request.repository_name)
        if self._siblings is None:
            return index_of(self._repository, request)
        answers = await self._siblings.index(pb.RepositoryIndexRequest().SerializeToString())
        return merge_index(answers, ready_only=request.ready)

    async def load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Loads a model, with the configuration in the request or else the repository's; answers when it is ready."""
        self._permit(request)
        _check_name(request.model_name)
        config = None
        for name, parameter in request.parameters.items():
            if name.startswith("file:"):
                raise FilesNotTaken(
                    f"failed to load '{request.model_name[:100]}', failed to poll from model repository: the parameter "
                    f"'{name[:100]}' is not served; model files are read from the repository only"
                )
            if name != "config":
                raise InvalidRequest(f"unrecognized load parameter '{name[:100]}'.")
            if parameter.WhichOneof("parameter_choice") != "string_param":
                raise InvalidRequest("invalid value type for load parameter 'config', expected string_param.")
            config = _parse_config(request.model_name, parameter.string_param)
        await self._changes.load_model(request.model_name, config)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """Takes a model out of service; what it has accepted is answered."""
        self._permit(request)
        for name, parameter in request.parameters.items():
            # No model depends on another here, so either value of it is obeyed.
            if name == "unload_dependents" and parameter.WhichOneof("parameter_choice") != "bool_param":
                raise InvalidRequest("invalid value type for 'unload_dependents' parameter, expected bool_param.")
        await self._changes.unload_model(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def _permit(self, request: _Request) -> None:
        if not self._explicit:
            raise ModelControlOff(
                "explicit model load / unload is not allowed if polling is enabled; start the server with "
                "--model-control explicit"
            )
        if not self._allowed:
            raise NotPermitted(
                "Clients may not load or unload models on this server. It takes such requests when it was started "
                "with --allow-admin."
            )
        _refuse_name(request.repository_name)


def _check_name(model: str) -> None:
    """Says what is wrong with a name that cannot be a model's; whether there is one, the repository knows."""
    name = model.strip()
    if not name:
        raise InvalidRequest("Model name cannot be empty. Please enter a valid name to deploy.")
    if name == ".." or "/" in name:
        raise InvalidRequest(
            f"invalid model name '{model[:100]}', model name must not contain path traversal characters"
        )


def index_of(repository: Repository, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
    """The index of one process."""
    response = pb.RepositoryIndexResponse()
    for state in repository.states:
        if state.status is ModelStatus.READY or not request.ready:
            reason = "" if state.status is ModelStatus.READY else state.reason
            response.models.add(name=state.name, version=str(state.version), state=state.status, reason=reason)
    return response


def _refuse_name(repository: str) -> None:
    if repository:
        raise InvalidRequest(f"There is one repository, without a name; '{repository[:100]}' is not it.")


def _parse_config(model: str, text: str) -> config_pb.ModelConfig:
    """A configuration in either of the forms that clients write: JSON, or the text form of config.pbtxt."""
    config = config_pb.ModelConfig()
    try:
        if text.lstrip().startswith("{"):
            json_format.Parse(text, config, descriptor_pool=Default())
        else:
            text_format.Parse(text, config, descriptor_pool=Default())
    except (json_format.ParseError, text_format.ParseError) as error:
        raise InvalidRequest(f"failed to load '{model[:100]}': its 'config' is not a ModelConfig: {error}") from error
    return config
