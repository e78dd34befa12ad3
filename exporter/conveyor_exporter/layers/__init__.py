"""The layers, with Keras' names and meaning, each a torch module; one layer a file."""

from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.conv2d import Conv2D
from conveyor_exporter.layers.dense import Dense
from conveyor_exporter.layers.flatten import Flatten
from conveyor_exporter.layers.spatial import SpatialLayer

__all__ = ["Conv2D", "Dense", "Flatten", "Layer", "SpatialLayer"]
