"""A client for this server, or any that speaks the Open Inference Protocol: `Client(url).predict(model, images)`."""

from conveyor_server.client.arrays import Outputs
from conveyor_server.client.async_client import AsyncClient
from conveyor_server.client.client import Client
from conveyor_server.client.descriptions import ModelDescription, ModelState, ModelStatistics, ServerDescription
from conveyor_server.client.errors import (
    AccessDenied,
    CallError,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    NotSupported,
    ServerError,
    TooLarge,
    Unavailable,
    Unreachable,
)
from conveyor_server.client.labels import Prediction, read_predictions
from conveyor_server.client.retries import RetryPolicy

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "CallError",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "InvalidRequest",
    "ModelDescription",
    "ModelState",
    "ModelStatistics",
    "NotFound",
    "NotSupported",
    "Outputs",
    "Prediction",
    "RetryPolicy",
    "ServerDescription",
    "ServerError",
    "TooLarge",
    "Unavailable",
    "Unreachable",
    "read_predictions",
]
