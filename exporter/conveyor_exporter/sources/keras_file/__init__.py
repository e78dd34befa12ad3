"""Reads trained Keras models, `.keras` and legacy `.h5`, without Keras and without running anything that is in them.

A file is data here: zip, JSON and HDF5. What it names is looked up in a closed table of layers, never imported.
"""

from conveyor_exporter.sources.keras_file.head import add_missing_head
from conveyor_exporter.sources.keras_file.reader import KerasModel, load_keras, read_keras

__all__ = ["KerasModel", "add_missing_head", "load_keras", "read_keras"]
