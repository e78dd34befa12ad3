"""Owns every error that the exporter raises on purpose; knows no other module."""


class ExporterError(Exception):
    """Root of all errors of the exporter: catching it catches every case that is not a bug."""


class InvalidArgument(ExporterError, ValueError):
    """An argument has a value that cannot work. Keras raises `ValueError` for these."""


class InvalidArgumentType(InvalidArgument, TypeError):
    """An argument has a type that cannot work: both a `TypeError` and, as often in Keras, a `ValueError`."""


class InvalidInput(ExporterError, ValueError):
    """Data given to a layer or a model does not fit it."""


class NotBuilt(ExporterError, ValueError):
    """The model does not know its input shape yet, so it has no weights."""


class NotCompiled(ExporterError, ValueError):
    """The model was asked to train or to be evaluated before `compile()`."""


class MissingDependency(ExporterError, ImportError):
    """An optional package is not installed; the message says which extra brings it."""


class ExportFailed(ExporterError, RuntimeError):
    """The model could not be turned into the ONNX file that we promise."""


class ModelFileRefused(ExporterError, ValueError):
    """A model file is damaged, hostile, or holds something that cannot be taken over faithfully."""


class VerificationFailed(ExporterError, RuntimeError):
    """The ONNX file does not give the model's answers; nothing was published."""


class PublishFailed(ExporterError, RuntimeError):
    """The model repository could not be written."""


class CheckpointFailed(ExporterError, RuntimeError):
    """The file that a stopped training goes on from could not be written or read."""


class CheckpointMismatch(CheckpointFailed):
    """The checkpoint belongs to another training: another network, other settings or other data."""


class InvalidSpecification(ExporterError, ValueError):
    """A network written as TOML is wrong; the message begins with the path of the key."""


class InvalidData(InvalidInput):
    """The pictures to train on cannot be read, or cannot be what the network takes."""
