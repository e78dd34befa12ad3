"""What gRPC is told of a connection: balancing, health, keep-alive, reconnecting. Plain values; knows no library."""

import json

from conveyor_server.client.target import Target

ROUND_ROBIN = {
    # Each request goes to the next connection; a channel without this sends them all to one replica.
    "loadBalancingConfig": [{"round_robin": {}}],
    # A connection whose server says NOT_SERVING gets no requests. "" asks for the whole server.
    "healthCheckConfig": {"serviceName": ""},
}
"""The service config of a client that balances itself."""

KEEPALIVE_SECONDS = 330.0
"""Between pings. gRPC servers end connections that ping more often than every five minutes while nothing is sent."""
KEEPALIVE_TIMEOUT_MS = 20_000
"""For the answer to a ping, and for the acknowledgement of anything that was sent."""

RECONNECT = {
    # DNS is asked again when a connection ends, at most this often. The default is 30 s.
    "grpc.dns_min_time_between_resolutions_ms": 2000,
    # Servers that come back are found within a second.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 1000,
    "grpc.max_reconnect_backoff_ms": 1000,
}

Options = list[tuple[str, int | str]]


def channel_options(target: Target, *, keepalive: float | None, server_name: str | None, retries: bool) -> Options:
    """The arguments of a channel.

    Args:
        target: where it leads.
        keepalive: seconds between pings while a call is under way; None for no pings.
        server_name: the name in the server's certificate, if it is not the address.
        retries: whether the client itself asks again; gRPC then need not keep what it needs for that.
    """
    options: dict[str, int | str] = {
        "grpc.max_receive_message_length": -1,
        "grpc.max_send_message_length": -1,
        # Channels with equal arguments would otherwise share a connection.
        "grpc.use_local_subchannel_pool": 1,
        **RECONNECT,
    }
    if retries:
        options["grpc.enable_retries"] = 0
    if target.fleet:
        options["grpc.service_config"] = json.dumps(ROUND_ROBIN)
    if keepalive is not None:
        # Without calls there are no pings: servers take those for an attack.
        options["grpc.keepalive_time_ms"] = round(keepalive * 1000)
        options["grpc.keepalive_timeout_ms"] = KEEPALIVE_TIMEOUT_MS
    if server_name is not None:
        options["grpc.ssl_target_name_override"] = server_name
    return list(options.items())
