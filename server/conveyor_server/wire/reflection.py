"""Server reflection: tells generic clients the services and messages, so that they need no proto file."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from conveyor_server.generated import inference_pb2
from conveyor_server.wire.rpc import parse
from conveyor_server.wire.status import Status

_ALPHA, _STABLE = "grpc.reflection.v1alpha", "grpc.reflection.v1"
REFLECTION_SERVICES = (f"{_ALPHA}.ServerReflection", f"{_STABLE}.ServerReflection")
"""One protocol under two names, of which newer clients ask for the second first."""

_Response = reflection_pb2.ServerReflectionResponse


class Reflection:
    """Answers questions about these services.

    Args:
        services: full names.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._pool = _pool()

    async def info(
        self, requests: AsyncIterator[bytes], deadline: float, caller: str
    ) -> AsyncGenerator[_Response, None]:
        """Each question's answer. A name that is not known is an answer too."""
        async for data in requests:
            request = parse(reflection_pb2.ServerReflectionRequest, data)
            response = self._answer(request)
            response.valid_host = request.host
            response.original_request.CopyFrom(request)
            yield response

    def _answer(self, request: reflection_pb2.ServerReflectionRequest) -> _Response:
        pool = self._pool
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            response = _Response()
            for name in self._services:
                response.list_services_response.service.add(name=name)
            return response
        if kind == "file_by_filename":
            return _files(request.file_by_filename, pool.FindFileByName)
        if kind == "file_containing_symbol":
            return _files(request.file_containing_symbol, pool.FindFileContainingSymbol)
        if kind == "all_extension_numbers_of_type":
            try:
                base = pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
            except KeyError:
                return _error(Status.NOT_FOUND, request.all_extension_numbers_of_type)
            # proto3 messages have no extensions.
            response = _Response()
            response.all_extension_numbers_response.base_type_name = base.full_name
            return response
        if kind == "file_containing_extension":
            return _error(Status.NOT_FOUND, request.file_containing_extension.containing_type)
        return _error(Status.INVALID_ARGUMENT, "no question")


def _pool() -> DescriptorPool:
    """All messages of the services in one pool; ours live in a private one otherwise."""
    pool = DescriptorPool()
    # Any: the stubs of the three know the one type under two names.
    descriptors: tuple[Any, ...] = (inference_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    for descriptor in descriptors:
        for file in _with_dependencies(descriptor):
            pool.AddSerializedFile(file.serialized_pb)
    stable = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    stable.name, stable.package = stable.name.replace("v1alpha", "v1"), _STABLE
    for holder in stable.message_type:
        for field in holder.field:
            if field.type_name:
                field.type_name = field.type_name.replace(_ALPHA, _STABLE)
    for method in stable.service[0].method:
        method.input_type = method.input_type.replace(_ALPHA, _STABLE)
        method.output_type = method.output_type.replace(_ALPHA, _STABLE)
    pool.AddSerializedFile(stable.SerializeToString())
    return pool


def _with_dependencies(file: FileDescriptor) -> list[FileDescriptor]:
    """The file and all that it imports, those that others need first."""
    found: dict[str, FileDescriptor] = {}
    for needed in file.dependencies:
        found.update((one.name, one) for one in _with_dependencies(needed))
    return [*found.values(), file]


def _files(name: str, find: Callable[[str], FileDescriptor]) -> _Response:
    try:
        file = find(name)
    except KeyError:
        return _error(Status.NOT_FOUND, name)
    response = _Response()
    # The one asked for comes first.
    files = [needed.serialized_pb for needed in reversed(_with_dependencies(file))]
    response.file_descriptor_response.file_descriptor_proto.extend(files)
    return response


def _error(status: Status, name: str) -> _Response:
    response = _Response()
    response.error_response.error_code = status
    response.error_response.error_message = f"{status.name.lower().replace('_', ' ')}: {name[:100]}"
    return response
