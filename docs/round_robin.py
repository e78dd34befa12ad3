"""A grpcio client that spreads its own requests over several replicas, with no balancer in between.

    python docs/round_robin.py parity dns:///conveyor:8001
    python docs/round_robin.py parity ipv4:10.0.0.1:8001,10.0.0.2:8001,10.0.0.3:8001

It needs only grpcio, and asks 100 times whether a model is ready.
"""

import json
import sys

import grpc

SERVICE_CONFIG = {
    # Each request goes to the next connection; a channel without this sends them all to one replica.
    "loadBalancingConfig": [{"round_robin": {}}],
    # A connection whose server says NOT_SERVING gets no requests. "" asks for the whole server; a model's name works.
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            # Predictions can be asked twice. UNAVAILABLE: full, leaving, not ready, or gone.
            "retryPolicy": {
                "maxAttempts": 5,  # as many as grpc allows
                "initialBackoff": "0.01s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        },
        # The longest name wins: these change one replica, so no policy asks another one.
        {
            "name": [
                {"service": "inference.GRPCInferenceService", "method": "RepositoryModelLoad"},
                {"service": "inference.GRPCInferenceService", "method": "RepositoryModelUnload"},
            ]
        },
    ],
    # The budget: while more than half of the requests need a second try, nothing is retried.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
}
OPTIONS = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", -1),
    # A request is kept for its retries up to this size. With the default, 256 KiB, larger ones have only one try.
    ("grpc.per_rpc_retry_buffer_size", 64 * 2**20),
    # DNS is asked again when a connection ends, at most this often. The default is 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 2000),
    # Replicas that come back are found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


def main() -> None:
    """Asks 100 times, and says how often the model was ready."""
    model, target = sys.argv[1:]
    # ModelReadyRequest{name}: field 1, a string. Generated messages do the same.
    request = b"\n" + bytes([len(model)]) + model.encode()
    with grpc.insecure_channel(target, options=OPTIONS) as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
        ready = sum(ask(request, timeout=10) == b"\x08\x01" for _ in range(100))
    print(f"{model} was ready {ready} times out of 100.")


if __name__ == "__main__":
    main()
