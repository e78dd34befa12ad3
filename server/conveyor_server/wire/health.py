"""What the server says of its readiness, asked once or watched. Knows models by their state, not what they do."""

from collections.abc import AsyncGenerator

from grpc_health.v1 import health_pb2

from conveyor_server.core.errors import ModelNotFound, ModelNotReady
from conveyor_server.engine.repository import Repository

_Response = health_pb2.HealthCheckResponse


class Health:
    """The readiness of a repository's models and of the server.

    Args:
        repository: the models.
        service: the name of the inference service, which means the whole server, as the empty name does.
    """

    def __init__(self, repository: Repository, service: str) -> None:
        self._repository = repository
        self._whole = ("", service)
        self._leaving = False

    @property
    def leaving(self) -> bool:
        """Whether requests should go elsewhere while it serves on: a stop is near, or other processes are missing."""
        return self._leaving

    @leaving.setter
    def leaving(self, value: bool) -> None:
        self._leaving = value
        self._repository.changes.notify()

    @property
    def ready(self) -> bool:
        """Whether a balancer should send requests here: everything was tried, something answers, no stop is near."""
        return not self.leaving and self.answers

    @property
    def answers(self) -> bool:
        """Whether everything was tried, and some model answers."""
        repository = self._repository
        return repository.loaded and any(state.served for state in repository.states)

    def model_ready(self, name: str, version: str) -> bool:
        """Whether the model answers; an unknown one does not.

        Raises:
            InvalidRequest: the version is not a number.
        """
        try:
            self._repository.get(name, version)
        except (ModelNotFound, ModelNotReady):
            return False
        return True

    async def check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        """The health of the server, or of the model with that name."""
        status = self._status(request.service)
        if status == _Response.SERVICE_UNKNOWN:
            raise ModelNotFound(f"unknown service: '{request.service[:100]}' is neither '{self._whole[1]}' nor a model")
        return _Response(status=status)

    async def watch(
        self, request: health_pb2.HealthCheckRequest
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """The same now and at each change. An unknown name may become a model later, so it is no error here."""
        told = None
        while True:
            changed = self._repository.changes.listen()
            status = self._status(request.service)
            if status != told:
                told = status
                yield _Response(status=status)
            await changed.wait()

    def _status(self, service: str) -> int:
        """A `HealthCheckResponse.ServingStatus`."""
        if service in self._whole:
            serving = self.ready
        elif any(state.name == service for state in self._repository.states):
            serving = not self.leaving and self.model_ready(service, "")
        else:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if serving else _Response.NOT_SERVING
