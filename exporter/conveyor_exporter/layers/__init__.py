"""The layers, with Keras' names and meaning, each a torch module; one layer a file."""

from conveyor_exporter.layers.activation import Activation
from conveyor_exporter.layers.average_pooling2d import AveragePooling2D
from conveyor_exporter.layers.base import Layer
from conveyor_exporter.layers.batch_normalization import BatchNormalization
from conveyor_exporter.layers.conv2d import Conv2D
from conveyor_exporter.layers.dense import Dense
from conveyor_exporter.layers.depthwise_conv2d import DepthwiseConv2D
from conveyor_exporter.layers.dropout import Dropout
from conveyor_exporter.layers.flatten import Flatten
from conveyor_exporter.layers.global_average_pooling2d import GlobalAveragePooling2D
from conveyor_exporter.layers.global_max_pooling2d import GlobalMaxPooling2D
from conveyor_exporter.layers.input import Input, InputLayer
from conveyor_exporter.layers.leaky_relu import LeakyReLU
from conveyor_exporter.layers.max_pooling2d import MaxPooling2D
from conveyor_exporter.layers.relu import ReLU
from conveyor_exporter.layers.rescaling import Rescaling
from conveyor_exporter.layers.reshape import Reshape
from conveyor_exporter.layers.separable_conv2d import SeparableConv2D
from conveyor_exporter.layers.softmax import Softmax
from conveyor_exporter.layers.spatial import SpatialLayer
from conveyor_exporter.layers.zero_padding2d import ZeroPadding2D

__all__ = [
    "Activation",
    "AveragePooling2D",
    "BatchNormalization",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "Input",
    "InputLayer",
    "Layer",
    "LeakyReLU",
    "MaxPooling2D",
    "ReLU",
    "Rescaling",
    "Reshape",
    "SeparableConv2D",
    "Softmax",
    "SpatialLayer",
    "ZeroPadding2D",
]
