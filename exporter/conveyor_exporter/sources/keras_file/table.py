"""Owns the closed table from Keras' class names to our layers, and which settings of each are understood.

What is not in the table is refused; nothing is ever looked up anywhere else.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from conveyor_exporter import layers
from conveyor_exporter.arguments import did_you_mean
from conveyor_exporter.errors import InvalidArgument, ModelFileRefused
from conveyor_exporter.sources.keras_file.chain import StoredLayer
from conveyor_exporter.sources.keras_file.entries import INPUT
from conveyor_exporter.sources.keras_file.json_text import is_plain, printable, quoted
from conveyor_exporter.sources.keras_file.versions import KerasVersion

Settings = frozenset[str]


@dataclass(frozen=True)
class Rule:
    """How a layer of a file becomes one of ours.

    Attributes:
        make: makes the layer; None for one that changes nothing outside training.
        understood: settings that are handed to `make`, under the same name.
        renamed: settings that were called otherwise once: old name to new.
        needed: settings that must have one of these values, because ours has no other.
        ignored: settings that matter in training alone; None stands for all.
    """

    make: Callable[..., layers.Layer] | None
    understood: Settings = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)
    needed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    ignored: Settings | None = frozenset()


def _settings(text: str) -> Settings:
    return frozenset(text.split())


def _elu(name: str, trainable: bool) -> layers.Activation:
    return layers.Activation("elu", name=name, trainable=trainable)


_WINDOW = "strides padding data_format"
_KERNEL = f"{_WINDOW} kernel_size dilation_rate activation use_bias"
_TRAINING_ONLY = Rule(make=None, ignored=None)
_POOLING = _settings(f"{_WINDOW} pool_size")
_GLOBAL_POOLING = _settings("data_format keepdims")

RULES: Mapping[str, Rule] = {
    INPUT: Rule(
        make=None,
        needed={"sparse": (False,), "ragged": (False,), "optional": (False,)},
        ignored=_settings("batch_shape batch_input_shape shape batch_size"),
    ),
    "Activation": Rule(layers.Activation, _settings("activation")),
    "AveragePooling2D": Rule(layers.AveragePooling2D, _POOLING),
    "BatchNormalization": Rule(
        layers.BatchNormalization,
        _settings("axis momentum epsilon center scale"),
        needed={"renorm": (False,), "virtual_batch_size": (None,), "adjustment": (None,)},
        ignored=_settings("synchronized fused renorm_clipping renorm_momentum"),
    ),
    "Conv2D": Rule(layers.Conv2D, _settings(f"{_KERNEL} filters groups")),
    "Dense": Rule(layers.Dense, _settings("units activation use_bias")),
    "DepthwiseConv2D": Rule(layers.DepthwiseConv2D, _settings(f"{_KERNEL} depth_multiplier"), needed={"groups": (1,)}),
    "Dropout": Rule(layers.Dropout, _settings("rate"), ignored=_settings("seed noise_shape")),
    "ELU": Rule(_elu, needed={"alpha": (1, 1.0)}),
    "Flatten": Rule(layers.Flatten, _settings("data_format")),
    "GlobalAveragePooling2D": Rule(layers.GlobalAveragePooling2D, _GLOBAL_POOLING),
    "GlobalMaxPooling2D": Rule(layers.GlobalMaxPooling2D, _GLOBAL_POOLING),
    "Identity": Rule(make=None),
    "LeakyReLU": Rule(layers.LeakyReLU, _settings("negative_slope"), renamed={"alpha": "negative_slope"}),
    "MaxPooling2D": Rule(layers.MaxPooling2D, _POOLING),
    "ReLU": Rule(layers.ReLU, _settings("max_value negative_slope threshold")),
    "Rescaling": Rule(layers.Rescaling, _settings("scale offset")),
    "Reshape": Rule(layers.Reshape, _settings("target_shape")),
    "SeparableConv2D": Rule(
        layers.SeparableConv2D, _settings(f"{_KERNEL} filters depth_multiplier"), needed={"groups": (1,)}
    ),
    "Softmax": Rule(layers.Softmax, _settings("axis")),
    "ZeroPadding2D": Rule(layers.ZeroPadding2D, _settings("padding data_format")),
    # Layers that give their input back outside training. Not all of Keras' random layers do: RandomCrop crops always.
    "ActivityRegularization": _TRAINING_ONLY,
    "AlphaDropout": _TRAINING_ONLY,
    "GaussianDropout": _TRAINING_ONLY,
    "GaussianNoise": _TRAINING_ONLY,
    "RandomBrightness": _TRAINING_ONLY,
    "RandomContrast": _TRAINING_ONLY,
    "RandomErasing": _TRAINING_ONLY,
    "RandomFlip": _TRAINING_ONLY,
    "RandomRotation": _TRAINING_ONLY,
    "RandomShear": _TRAINING_ONLY,
    "RandomTranslation": _TRAINING_ONLY,
    "RandomZoom": _TRAINING_ONLY,
    "SpatialDropout2D": _TRAINING_ONLY,
}

_COMMON = frozenset({"name", "trainable", "dtype", "autocast", "batch_input_shape", "batch_shape", "input_shape"})
_ONLY_TRAINING = re.compile(r".*_(initializer|regularizer|constraint)")
_COMPUTE_DTYPES = frozenset({"float32", "mixed_float16", "mixed_bfloat16", "bfloat16"})
_INPUT_DTYPES = _COMPUTE_DTYPES | {"float16", "float64", "uint8", "uint16", "int8", "int16", "int32", "int64"}


def make_layer(stored: StoredLayer, version: KerasVersion) -> layers.Layer | None:
    """Return our form of a stored layer, not built yet; None for one that changes nothing outside training.

    Args:
        stored: the layer.
        version: which Keras wrote it.

    Raises:
        ModelFileRefused: the class or a setting is not understood; the message names it.
    """
    rule = RULES.get(stored.class_name)
    if rule is None:
        raise ModelFileRefused(f"{stored.title}: {_why_not(stored.class_name)}")
    _check_dtype(stored)
    given = {rule.renamed.get(key, key): value for key, value in stored.config.items()}
    arguments = {key: value for key, value in given.items() if key in rule.understood}
    for key, value in given.items():
        _check_setting(stored, rule, key, value)
    if rule.make is None:
        return None
    trainable = given.get("trainable") is not False
    if isinstance(name := arguments.get("activation"), str):
        arguments["activation"] = version.activation(name)
    try:
        return rule.make(**arguments, name=safe_name(stored.name), trainable=trainable)
    except (InvalidArgument, TypeError) as error:  # TypeError: a setting that the class cannot do without is missing
        raise ModelFileRefused(f"{stored.title}: {printable(str(error))}") from error


def _check_setting(stored: StoredLayer, rule: Rule, key: str, value: object) -> None:
    if rule.ignored is None or key in _COMMON or key in rule.ignored or _ONLY_TRAINING.fullmatch(key):
        return
    if key == "activation" and not isinstance(value, str | None):
        what = value.get("class_name") if isinstance(value, dict) else None
        raise ModelFileRefused(
            f"{stored.title}: its activation is an object ({quoted(what)}), not a name. Give it a name such as "
            "'relu', or put the activation behind it as a layer, and save the model again."
        )
    if key in rule.understood:
        if not is_plain(value):
            raise ModelFileRefused(f"{stored.title}: the setting {quoted(key)} cannot be {quoted(value)}.")
    elif key in rule.needed:
        if value not in rule.needed[key] or isinstance(value, bool) != isinstance(rule.needed[key][0], bool):
            raise ModelFileRefused(f"{stored.title}: {quoted(key)}={quoted(value)} is not supported.")
    elif value is not None:  # null is a feature, perhaps of a later Keras, that is off
        raise ModelFileRefused(
            f"{stored.title}: the setting {quoted(key)}={quoted(value)} is not known here and may change the answers."
        )


def _check_dtype(stored: StoredLayer) -> None:
    """Accept a layer that computes in float32, or in a shorter type that float32 contains."""
    dtype = stored.config.get("dtype") or "float32"
    if isinstance(dtype, dict):  # a policy, as an object
        config = dtype.get("config")
        known = dtype.get("class_name") in ("DTypePolicy", "FloatDTypePolicy", "Policy", "PolicyV1")
        dtype = config.get("name") if known and isinstance(config, dict) else dtype.get("class_name")
    allowed = _INPUT_DTYPES if stored.class_name == INPUT else _COMPUTE_DTYPES
    if not isinstance(dtype, str) or dtype not in allowed:
        raise ModelFileRefused(
            f"{stored.title} computes in {quoted(dtype)}; {', '.join(sorted(_COMPUTE_DTYPES))} can be read."
        )


def _why_not(class_name: str) -> str:
    if class_name in ("Lambda", "TFOpLambda", "SlicingOpLambda"):
        return "its code is in the file and would have to be run, which is never done. Replace it by a layer of Keras."
    return (
        f"this class cannot be read.{did_you_mean(class_name, RULES) if class_name.isidentifier() else ''} "
        f"What can be read: {', '.join(sorted(set(RULES) - {INPUT}))}."
    )


def safe_name(name: str) -> str:
    """Return a layer's name without what separates names in an ONNX file or would act on a terminal."""
    return re.sub(r"[^\w-]", "_", name)
