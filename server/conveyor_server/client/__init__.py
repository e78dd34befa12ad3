"""A client for this server, or any that speaks the Open Inference Protocol: `Client(url).predict(model, images)`."""

from conveyor_server.client.connection import Client, ModelDescription, PredictionError
from conveyor_server.client.labels import Prediction, read_predictions

__all__ = ["Client", "ModelDescription", "Prediction", "PredictionError", "read_predictions"]
