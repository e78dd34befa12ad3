"""Certificates, tokens and limits in the terms of grpcio. Knows neither handlers nor the life of a server."""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TypeAlias

import grpc

from conveyor_server.core.errors import RequestError
from conveyor_server.wire.access import Access
from conveyor_server.wire.certificates import Certificates
from conveyor_server.wire.connection_limits import ConnectionLimits
from conveyor_server.wire.status import STATUS_OF
from conveyor_server.wire.tokens import Scope

CODES = {code.value[0]: code for code in grpc.StatusCode}
_NEVER = 2**31 - 1
"""Milliseconds that mean for ever."""
_Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Routes(grpc.GenericRpcHandler):
    """Finds the handler of a call by its headers, and turns it away before its body is read if it may not be made.

    Args:
        rpcs: handler and scope by path.
        access: who may call what; None lets all in.
    """

    def __init__(self, rpcs: "Mapping[str, tuple[_Handler, Scope | None]]", access: Access | None) -> None:
        self._rpcs = rpcs
        self._access = access

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "_Handler | None":
        """The handler of the call; None for an RPC that is not served."""
        handler, scope = self._rpcs.get(handler_call_details.method, (None, None))
        if self._access is not None and scope is not None:
            try:
                self._access.check(scope, _authorization(handler_call_details.invocation_metadata))
            except RequestError as error:
                return _refusal(error)
        return handler


def _authorization(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    return next((value for name, value in metadata if name == "authorization" and isinstance(value, str)), None)


def _refusal(error: RequestError) -> "_Handler":
    """A handler that only ends the call. It is one of streams, because those of single requests wait for the body."""

    async def refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.abort(CODES[STATUS_OF[type(error)]], str(error))

    return grpc.stream_stream_rpc_method_handler(refuse)


def keep_headers_out_of_the_log() -> None:
    """Has grpcio not log headers that are no text: it quotes them whole, and there may be a token in them."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_quotes_no_header)


def _quotes_no_header(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid encoding on")


def connection_options(limits: ConnectionLimits) -> list[tuple[str, int]]:
    """The limits in the words of gRPC's core."""
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_concurrent_streams", limits.max_streams),
        # Between the two, calls would be refused by chance.
        ("grpc.max_metadata_size", limits.header_bytes),
        ("grpc.absolute_max_metadata_size", limits.header_bytes),
        ("grpc.max_connection_age_ms", _milliseconds(limits.age_seconds)),  # core adds its own ± 10 %
        ("grpc.max_connection_age_grace_ms", _milliseconds(limits.age_grace_seconds)),
        ("grpc.max_connection_idle_ms", _milliseconds(limits.idle_seconds)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _milliseconds(limits.ping_seconds)),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _milliseconds(limits.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _milliseconds(limits.keepalive_timeout_seconds)),
    ]


def _milliseconds(seconds: float) -> int:
    return int(min(seconds * 1000, _NEVER))


def credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials that ask for the material at each handshake."""
    given = certificates.material

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(given.key, given.certificate)], given.client_authority)

    def newer() -> grpc.ServerCertificateConfiguration | None:
        """None says that nothing is new."""
        nonlocal given
        if given is certificates.material:
            return None
        given = certificates.material
        return configuration()

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        newer,  # type: ignore[arg-type]  # the stub does not know the None that grpc documents
        certificates.wants_clients,
    )
